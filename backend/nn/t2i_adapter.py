"""T2I-Adapter: a small network that reads a hint once a picture and answers with one feature map a level.

Attribute names are diffusers' keys without their ``adapter.``.
Sources: Mou et al. 2023, arXiv:2302.08453; TencentARC/T2I-Adapter ``adapter.py``; diffusers 0.42.1 ``adapter.py``.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from backend.diffusion.residuals import UNetResiduals
from backend.errors import BadRequest
from backend.formats.configs import UNetConfig
from backend.formats.control_configs import T2IAdapterConfig


class ResidualBlock(nn.Module):
    """Two convolutions with ReLU between them, beside a shortcut."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.block1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.block2 = nn.Conv2d(channels, channels, kernel, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W), kept."""
        h = F.relu(self.block1(x))
        return self.block2(h) + x


class Level(nn.Module):
    """Residual blocks of one width; light ones are narrow, between two 1x1 convolutions."""

    def __init__(self, config: T2IAdapterConfig, before: int, after: int, *, halved: bool) -> None:
        super().__init__()
        inner = after // 4 if config.is_light else after
        self.halved = halved
        self.in_conv = nn.Conv2d(before, inner, 1) if config.is_light or before != after else None
        self.resnets = nn.ModuleList(ResidualBlock(inner, config.kernel) for _ in range(config.res_blocks))
        self.out_conv = nn.Conv2d(inner, after, 1) if config.is_light else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, before, H, W) -> (B, after, H, W), or half of both sides, rounded up."""
        if self.halved:
            x = F.avg_pool2d(x, 2, ceil_mode=True)
        if self.in_conv is not None:
            x = self.in_conv(x)
        for block in self.resnets:
            x = block(x)
        return x if self.out_conv is None else self.out_conv(x)


class T2IAdapter(nn.Module):
    """Answer a hint with feature maps that are added to what the U-Net's levels give."""

    def __init__(self, config: T2IAdapterConfig) -> None:
        super().__init__()
        self.control = config
        squeezed = config.hint_channels * config.unshuffle**2
        first = squeezed if config.is_light else config.channels[0]
        self.conv_in = None if config.is_light else nn.Conv2d(squeezed, first, 3, padding=1)
        before = [first, *config.channels[:-1]]
        self.body = nn.ModuleList(
            Level(config, into, out, halved=level in config.halved)
            for level, (into, out) in enumerate(zip(before, config.channels, strict=True))
        )

    def forward(self, hint: Tensor) -> list[Tensor]:
        """(B, hint_channels, 8 H, 8 W), 0 to 1 -> one feature map a level, the finest first."""
        h = F.pixel_unshuffle(hint, self.control.unshuffle)
        if self.conv_in is not None:
            h = self.conv_in(h)
        features: list[Tensor] = []
        for level in self.body:
            h = level(h)
            features.append(h)
        return features

    def residuals(self, features: list[Tensor], unet: UNetConfig) -> UNetResiduals:
        """The feature maps as residuals for a U-Net.

        Raises:
            BadRequest: if the U-Net has another number of levels.
        """
        places, has_middle = feature_places(unet)
        wanted = len(places) + has_middle
        if len(features) != wanted:
            raise BadRequest(
                f"This T2I-Adapter has {len(features)} levels; the checkpoint's U-Net takes {wanted}.",
                "Use it with the kind of checkpoint that it was trained for.",
            )
        middle = features[-1] if has_middle else None
        return UNetResiduals({}, middle, dict(zip(places, features, strict=False)))


def feature_places(unet: UNetConfig) -> tuple[list[int], bool]:
    """After which input blocks the feature maps go in, and whether one more goes in after the middle.

    A level's map stands behind its last residual block; behind its downsampling where it has no attention, as SDXL's
    first level. So diffusers runs them. SD1's adapters have as many levels as the U-Net, SDXL's one more.
    """
    places: list[int] = []
    block, depths = 0, iter(unet.depth_in)
    levels = len(unet.channel_mult)
    for level, count in enumerate(unet.res_blocks):
        attends = sum(next(depths) for _ in range(count)) > 0
        block += count
        is_last = level == levels - 1
        places.append(block if attends or is_last else block + 1)
        block += 0 if is_last else 1
    return places, unet.label_dim is not None
