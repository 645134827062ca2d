"""Masks in latent space: 1 = repaint, 0 = keep; what is kept is put back into every denoised latent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from backend.diffusion.samplers.spec import Denoiser

LatentContent = Literal["original", "latent noise", "latent nothing"]


def latent_mask(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """The latent cells to repaint: those of which at least one pixel is masked by half or more.

    A1111 takes the mean of each cell and rounds; strokes thinner than half a cell are lost there.

    Args:
        mask: (1 or B, 1, H, W) pixels in [0, 1].
        size: (h, w) of the latent.
    Returns:
        (1 or B, 1, h, w), 0 or 1.
    """
    return F.adaptive_max_pool2d((mask >= 0.5).to(mask.dtype), size)


def composite(repainted: Tensor, kept: Tensor, mask: Tensor) -> Tensor:
    """``repainted`` where the mask is 1, ``kept`` where it is 0 (there bit for bit), latents or images alike."""
    return torch.where(mask == 0, kept, repainted * mask + kept * (1 - mask))


@dataclass(frozen=True, eq=False)
class KeepUnmasked:
    """A denoiser that knows the kept part: its ``denoised`` is ``init_latent`` where the mask is 0.

    The kept part of ``x`` then follows ``init_latent`` with noise of the current level at every step, as in A1111.

    Args:
        mask: latent mask, (1 or B, 1, h, w) or (1 or B, C, h, w), or what gives it anew at each call.
        init_latent: (B, C, h, w), denoiser units.
    """

    denoise: Denoiser
    mask: Tensor | Callable[[], Tensor]
    init_latent: Tensor

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        """The clean latent, the kept part laid over it."""
        return self.lay_over(self.denoise(x, sigma))

    def lay_over(self, latent: Tensor) -> Tensor:
        """A clean latent with the kept part of the step that is being made."""
        return composite(latent, self.init_latent, self.mask() if callable(self.mask) else self.mask)


def inpaint_inputs(pixels: Tensor, mask: Tensor, encode: Callable[[Tensor], Tensor]) -> Tensor:
    """What an inpainting U-Net reads behind the noisy latent: the mask, then the latent of the picture without it.

    Masked is what is so by half or more; those pixels are grey in the picture, and of the mask every eighth pixel is
    taken, both as in the reference.

    Args:
        pixels: (1, 3, H, W) in [-1, 1].
        mask: (1, 1, H, W) in [0, 1], 1 = repaint.
        encode: to latents (1, C, h, w) in denoiser units.
    Returns:
        (1, 1 + C, h, w).
    Source: diffusers, pipeline_stable_diffusion_xl_inpaint.py, prepare_mask_latents; A1111, modules/processing.py.
    """
    hidden = (mask >= 0.5).to(pixels.dtype)
    latent = encode(pixels * (1 - hidden))
    cells = F.interpolate(hidden, size=latent.shape[-2:], mode="nearest")
    return torch.cat([cells.to(latent), latent], dim=1)


def fill_masked(init_latent: Tensor, mask: Tensor, content: LatentContent, noise: Tensor) -> Tensor:
    """What lies under the mask before the start noise is added: the original, unit noise, or nothing (zeros).

    Args:
        init_latent, noise: (B, C, h, w); ``noise`` is drawn apart from the start noise.
        mask: latent mask, 1 = repaint.
    """
    match content:
        case "original":
            return init_latent
        case "latent noise":
            return composite(noise, init_latent, mask)
        case "latent nothing":
            return composite(torch.zeros_like(init_latent), init_latent, mask)
