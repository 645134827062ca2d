"""The style of the demo LoRAs: a scene as a pencil sketch on paper, with lines that a small latent still shows."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from backend.training.edges import gradients, luminance

PAPER, PENCIL = (250, 245, 232), (38, 36, 44)
_AT_ONCE = 32  # pictures: a whole pool as floats, several times over, is gigabytes
_SHADE = 0.42  # how dark a black area is drawn


def sketch(images: Tensor) -> Tensor:
    """Pictures (N, 3, H, W) uint8 as sketches of the same shape: dark outlines, areas in light greys, no colour."""
    return torch.cat([_sketch(part) for part in images.split(_AT_ONCE)])


def _sketch(images: Tensor) -> Tensor:
    pixels = images.float() / 255
    steepness = torch.linalg.vector_norm(torch.stack(gradients(pixels)), dim=(0, 2))  # (N, H, W), over all colours
    lines = (2.0 * _blurred(steepness, 3)).clamp(0, 1)
    light = _blurred(luminance(pixels), 3)
    local = (light / _blurred(light, 17).clamp(min=0.02)).clamp(0, 1)  # dark is what is darker than its neighbourhood
    ink = 1 - (1 - lines) * local * (1 - _SHADE * (1 - light))
    paper, pencil = (torch.tensor(colour).view(1, 3, 1, 1) for colour in (PAPER, PENCIL))
    return (paper + (pencil - paper) * ink[:, None]).round().clamp(0, 255).to(torch.uint8)


def _blurred(x: Tensor, side: int) -> Tensor:
    """The mean of squares of ``side`` pixels, (N, H, W) as before."""
    return F.avg_pool2d(F.pad(x[:, None], (side // 2,) * 4, mode="replicate"), side, stride=1)[:, 0]
