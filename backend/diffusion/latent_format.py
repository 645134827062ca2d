"""Between the VAE's raw latents and denoiser units, and from there to a rough RGB preview without the VAE."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from backend.formats.configs import LatentConstants


@dataclass(frozen=True)
class LatentFormat:
    """A family's latent space: (raw - shift) * scale has about unit variance, by channel where the constants say so.

    Args:
        constants: channels, scale, shift and the linear map from latent channels to RGB.
    """

    constants: LatentConstants

    def encode(self, raw: Tensor) -> Tensor:
        """From the VAE's output (B, C, h, w) to denoiser units."""
        shift, scale = self._shift_and_scale(raw)
        return (raw - shift) * scale

    def decode(self, latent: Tensor) -> Tensor:
        """From denoiser units (B, C, h, w) to what the VAE's decoder takes; the inverse of ``encode``."""
        shift, scale = self._shift_and_scale(latent)
        return latent / scale + shift

    def preview(self, latent: Tensor) -> Tensor:
        """An RGB guess, (B, 3, h, w) in [-1, 1], one pixel a latent cell, from a latent in denoiser units."""
        factors = torch.tensor(self.constants.rgb_factors, dtype=latent.dtype, device=latent.device)  # (C, 3)
        bias = torch.tensor(self.constants.rgb_bias, dtype=latent.dtype, device=latent.device)
        rgb = torch.einsum("bchw,cr->brhw", latent, factors) + bias[:, None, None]
        return rgb.clamp(-1, 1)

    def _shift_and_scale(self, latent: Tensor) -> tuple[Tensor | float, Tensor | float]:
        """Numbers, or (C, 1, 1) where each channel has its own."""
        constants = self.constants
        if not constants.deviations:
            return constants.shift, constants.scale
        means = latent.new_tensor(constants.means)[:, None, None]
        deviations = latent.new_tensor(constants.deviations)[:, None, None]
        return means + constants.shift, constants.scale / deviations
