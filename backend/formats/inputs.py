"""What a U-Net reads beside the noisy latent, told by its number of input channels."""

from __future__ import annotations

from typing import Literal

from backend.formats.configs import MMDiTConfig, UNetConfig

#: "inpaint": a mask, then the latent of the picture without what is masked; "edit": the latent of the picture to change
#: (instruct-pix2pix).
ExtraInputs = Literal["none", "inpaint", "edit"]


def extra_inputs(denoiser: UNetConfig | MMDiTConfig) -> ExtraInputs:
    """By the relation of the channels, so that other latent spaces count the same."""
    extra = denoiser.in_channels - denoiser.out_channels
    if isinstance(denoiser, MMDiTConfig):
        return "none"
    return "inpaint" if extra == denoiser.out_channels + 1 else "edit" if extra == denoiser.out_channels else "none"
