"""The tiny decoder of live previews (TAESD): latent -> image with plain convolutions, about a hundredth of the VAE.

Attribute names are the places in the published ``taesd_decoder`` files ("1.weight", "3.conv.0.weight" ...).
Source: madebyollin/taesd, ``taesd.py``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from backend.formats.configs import TinyDecoderConfig

BLOCKS = (3, 3, 3, 1)  # at each resolution, from the coarsest


class Clamp(nn.Module):
    """Keeps a latent within (-3, 3), softly."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape."""
        return torch.tanh(x / 3) * 3


class Block(nn.Module):
    """Three 3x3 convolutions beside a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, H, W) -> (B, width, H, W)."""
        return torch.relu(self.conv(x) + x)


class TinyDecoder(nn.Sequential):
    """Latent in the published denoiser units of its family (B, C, h, w) -> image (B, 3, 8 h, 8 w), about in [-1, 1]."""

    def __init__(self, config: TinyDecoderConfig) -> None:
        layers: list[nn.Module] = [Clamp(), nn.Conv2d(config.latent_channels, config.width, 3, padding=1), nn.ReLU()]
        for blocks in BLOCKS[:-1]:
            layers += [Block(config.width) for _ in range(blocks)]
            layers += [nn.Upsample(scale_factor=2), nn.Conv2d(config.width, config.width, 3, padding=1, bias=False)]
        layers += [Block(config.width) for _ in range(BLOCKS[-1])]
        super().__init__(*layers, nn.Conv2d(config.width, 3, 3, padding=1))

    def forward(self, input: Tensor) -> Tensor:
        """As the class says; the layers themselves give [0, 1]."""
        return super().forward(input).mul(2).sub(1)
