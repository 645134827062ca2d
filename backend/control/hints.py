"""From a hint picture to what a guidance network reads: pixels at eight times the latent's side, or a latent.

What a preprocessor has drawn (edges, depth ...) comes in as numbers from 0 to 1; what each kind of network was trained
on is a row of facts. Sources: FORMATS.md section 5; Stability-AI/sd3.5 ``sd3_infer.py``; diffusers 0.42.1
``pipelines/controlnet_sd3``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from backend.diffusion.patching import Tile
from backend.errors import BadRequest
from backend.formats.configs import LatentConstants
from backend.formats.control_configs import ControlNetConfig, MMDiTControlConfig, T2IAdapterConfig

CANNY = 1  # of Stability's hint types


@dataclass(frozen=True)
class LatentRule:
    """How a guidance network for the MMDiT takes its hint.

    Attributes:
        shifted: the latent is in denoiser units; else it is only scaled.
        pooled_zeros: it takes zeros for the pooled text.
        has_mask: the last channel is a mask, 1 where the picture is kept; the hint is black where it is repainted.
    """

    shifted: bool
    pooled_zeros: bool
    has_mask: bool = False


def latent_rule(config: MMDiTControlConfig) -> LatentRule:
    """InstantX's (joint blocks, 16 channels), alimama's (17 channels) and Stability's networks differ here."""
    if config.blocks != "joint":
        return LatentRule(shifted=True, pooled_zeros=False)
    has_mask = config.hint_channels > config.mmdit.in_channels
    return LatentRule(shifted=has_mask, pooled_zeros=not has_mask, has_mask=has_mask)


def pixel_hint(config: ControlNetConfig | T2IAdapterConfig, picture: Tensor, height: int, width: int) -> Tensor:
    """The picture for a ControlNet or a T2I-Adapter.

    Args:
        picture: (B, 3, h, w), 0 to 1.
        height, width: of the latent that is guided.
    Returns:
        (B, hint_channels, 8 * height, 8 * width); of a T2I-Adapter rounded up to whole squares of its pixels.
    """
    picture = resized(picture, 8 * height, 8 * width)
    if config.hint_channels == 1:
        picture = picture.mean(dim=1, keepdim=True)
    if isinstance(config, T2IAdapterConfig):
        down, right = (-side % config.unshuffle for side in picture.shape[-2:])
        picture = F.pad(picture, (0, right, 0, down), mode="replicate") if down or right else picture
    return picture


def latent_hint(
    config: MMDiTControlConfig,
    picture: Tensor,
    encode: Callable[[Tensor], Tensor],
    constants: LatentConstants,
    *,
    hint_type: int | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """The latent for a guidance network of the MMDiT.

    Args:
        picture: (B, 3, 8 H, 8 W), 0 to 1.
        encode: the VAE, from a picture in [-1, 1] to the raw latent's mean.
        hint_type: what the file says of it, ``Control.hint_type``.
        mask: (B, 1, 8 H, 8 W), 1 = repaint; only for networks that take one.
    Returns:
        (B, hint_channels, H, W).
    Raises:
        BadRequest: if the network takes a mask and there is none.
    """
    rule = latent_rule(config)
    image = 127.5 * picture + 0.5 if hint_type == CANNY else 2 * picture - 1
    if rule.has_mask:
        if mask is None:
            raise BadRequest("This ControlNet repaints under a mask; there is none.", "Draw a mask.")
        image = torch.where(mask > 0.5, -1.0, image)
    raw = encode(image)
    latent = (raw - (constants.shift if rule.shifted else 0.0)) * constants.scale
    if not rule.has_mask or mask is None:
        return latent
    return torch.cat([latent, 1 - F.interpolate(mask, size=latent.shape[-2:]).to(latent)], dim=1)


def cut_hint(hint: Tensor, tile: Tile, height: int, width: int, scale: int, unshuffle: int = 1) -> Tensor:
    """The part of a whole hint (B, C, h, w) that a tile of ``height`` x ``width`` cells needs.

    Args:
        scale: of the hint's numbers to a latent cell's side.
        unshuffle: the part's sides are whole multiples of it; what the hint lacks for that continues its edge.
    """
    top, left, down, right = (scale * cells for cells in (tile.top, tile.left, height, width))
    down, right = down + -down % unshuffle, right + -right % unshuffle
    part = hint[..., top : top + down, left : left + right]
    lacking = (0, right - part.shape[-1], 0, down - part.shape[-2])
    return F.pad(part, lacking, mode="replicate") if any(lacking) else part


def resized(picture: Tensor, height: int, width: int) -> Tensor:
    """A picture (B, C, h, w) at exactly this size, without ringing."""
    if picture.shape[-2:] == (height, width):
        return picture
    return F.interpolate(picture, size=(height, width), mode="bilinear", antialias=True)
