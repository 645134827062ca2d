"""The image autoencoder of all families: image <-> latent at an eighth of the side.

Scale and shift of the latent are no business of this network: see LatentFormat.
Source: Rombach et al. 2022, arXiv:2112.10752, appendix G (KL-regularised autoencoder).
"""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from backend.formats.configs import VAEConfig
from backend.nn.attention import attend
from backend.nn.layers import StartsAtZero, accumulate, silu


def group_norm(config: VAEConfig, channels: int) -> nn.GroupNorm:
    """The VAE's normalisation; its epsilon differs from the U-Net's residual blocks (1e-5)."""
    return nn.GroupNorm(config.norm_groups, channels, eps=1e-6)


class ResnetBlock(StartsAtZero, nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    zero_at_start = ("conv2",)

    def __init__(self, config: VAEConfig, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm1 = group_norm(config, in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = group_norm(config, out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        if in_channels != out_channels:
            self.nin_shortcut = nn.Conv2d(in_channels, out_channels, 1)
        else:
            self.nin_shortcut = None

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H, W)."""
        h = self.conv1(silu(self.norm1(x)))
        h = self.conv2(silu(self.norm2(h)))
        shortcut = x if self.nin_shortcut is None else self.nin_shortcut(x)
        return accumulate(h, shortcut)


class AttnBlock(StartsAtZero, nn.Module):
    """Attention of every pixel to every pixel with one head of full width; projections are 1x1 convolutions."""

    zero_at_start = ("proj_out",)

    def __init__(self, config: VAEConfig, channels: int) -> None:
        super().__init__()
        self.norm = group_norm(config, channels)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        h = self.norm(x)
        # (B, C, H, W) -> (B, 1, H * W, C)
        q, k, v = (part(h).flatten(2).transpose(1, 2).unsqueeze(1).contiguous() for part in (self.q, self.k, self.v))
        h = attend(q, k, v)
        h = h.squeeze(1).transpose(1, 2).reshape(x.shape)
        return x + self.proj_out(h)


class Middle(nn.Module):
    """The coarsest level: a residual block, attention, a residual block."""

    def __init__(self, config: VAEConfig, channels: int) -> None:
        super().__init__()
        self.block_1 = ResnetBlock(config, channels, channels)
        self.attn_1 = AttnBlock(config, channels)
        self.block_2 = ResnetBlock(config, channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return self.block_2(self.attn_1(self.block_1(x)))


class Downsample(nn.Module):
    """Halve both sides; the padding is on the right and the bottom only, as in the published code."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H // 2, W // 2)."""
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Double both sides by repeating pixels, then smooth with a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, 2 H, 2 W)."""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Level(nn.Module):
    """The residual blocks of one resolution and the change to the next; which change, is told by the attribute set."""

    def __init__(self, config: VAEConfig, in_channels: int, out_channels: int, blocks: int) -> None:
        super().__init__()
        widths = (in_channels, *[out_channels] * blocks)
        self.block = nn.ModuleList(ResnetBlock(config, *pair) for pair in pairwise(widths))
        self.downsample: Downsample | None = None
        self.upsample: Upsample | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H or H / 2 or 2 H, ...)."""
        for block in self.block:
            x = block(x)
        if self.downsample is not None:
            x = self.downsample(x)
        if self.upsample is not None:
            x = self.upsample(x)
        return x


class Encoder(nn.Module):
    """Image -> mean and log variance of the latent, before ``quant_conv``."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        widths = [config.channels * mult for mult in config.channel_mult]
        self.conv_in = nn.Conv2d(3, config.channels, 3, padding=1)
        self.down = nn.ModuleList(
            Level(config, *pair, config.res_blocks) for pair in pairwise([config.channels, *widths])
        )
        for level, width in list(zip(self.down, widths, strict=True))[:-1]:
            level.downsample = Downsample(width)
        self.mid = Middle(config, widths[-1])
        self.norm_out = group_norm(config, widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], 2 * config.latent_channels, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 2 * latent_channels, H / 8, W / 8) with the published four levels."""
        h = self.conv_in(image)
        for level in self.down:
            h = level(h)
        h = self.mid(h)
        return self.conv_out(silu(self.norm_out(h)))


class Decoder(nn.Module):
    """Latent, after ``post_quant_conv`` -> image."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        widths = [config.channels * mult for mult in config.channel_mult]
        self.conv_in = nn.Conv2d(config.latent_channels, widths[-1], 3, padding=1)
        self.mid = Middle(config, widths[-1])
        # up.0 is the finest level and runs last: each level starts at the width of the coarser one.
        starts = [*widths[1:], widths[-1]]
        self.up = nn.ModuleList(
            Level(config, start, width, config.res_blocks + 1) for start, width in zip(starts, widths, strict=True)
        )
        for level, width in list(zip(self.up, widths, strict=True))[1:]:
            level.upsample = Upsample(width)
        self.norm_out = group_norm(config, widths[0])
        self.conv_out = nn.Conv2d(widths[0], 3, 3, padding=1)

    def forward(self, latent: Tensor) -> Tensor:
        """(B, latent_channels, H, W) -> (B, 3, 8 H, 8 W) with the published four levels."""
        h = self.conv_in(latent)
        h = self.mid(h)
        for level in reversed(self.up):
            h = level(h)
        return self.conv_out(silu(self.norm_out(h)))


class VAE(nn.Module):
    """Encoder and decoder; images are (B, 3, H, W) in [-1, 1], latents are raw (before scale and shift)."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        channels = config.latent_channels
        self.quant_conv = nn.Conv2d(2 * channels, 2 * channels, 1) if config.quant_conv else None
        self.post_quant_conv = nn.Conv2d(channels, channels, 1) if config.quant_conv else None

    @property
    def downscale(self) -> int:
        """Image pixels along a side of one latent pixel (8 with the published four levels)."""
        return 2 ** (len(self.config.channel_mult) - 1)

    def encode_moments(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of the latent's normal distribution, (B, latent_channels, H / 8, W / 8) each."""
        moments = self.encoder(image)
        if self.quant_conv is not None:
            moments = self.quant_conv(moments)
        mean, logvar = moments.chunk(2, dim=1)
        return mean, logvar.clamp(-30.0, 20.0)

    def encode(self, image: Tensor) -> Tensor:
        """The mean of the raw latent, (B, latent_channels, H / 8, W / 8); nothing is drawn."""
        mean, _ = self.encode_moments(image)
        return mean

    def decode(self, latent: Tensor) -> Tensor:
        """Raw latent (B, latent_channels, H, W) -> image (B, 3, 8 H, 8 W), about in [-1, 1]."""
        if self.post_quant_conv is not None:
            latent = self.post_quant_conv(latent)
        return self.decoder(latent)
