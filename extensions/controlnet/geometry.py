"""Sizes: at which resolution a preprocessor works, and how its hint is laid on the picture that is made."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

ResizeMode = Literal["just resize", "crop and resize", "resize and fill"]
MOST_PIXELS = 4096 * 4096  # a preprocessor's picture; beyond it no picture gains


def pixel_perfect(height: int, width: int, to_height: int, to_width: int, mode: ResizeMode) -> float:
    """The scale at which one pixel of the hint is one of the picture that is made.

    Source: sd-webui-controlnet, ``external_code.pixel_perfect_resolution``: the larger of the two sides' scales, or the
    smaller one where the whole picture is to be seen. There it becomes a shorter side in whole pixels; here it does
    not, so that the longer side fits as well.
    """
    scales = (to_height / height, to_width / width)
    return min(scales) if mode == "resize and fill" else max(scales)


def at_scale(picture: Tensor, scale: float) -> Tensor:
    """The picture (C, h, w) so many times as large; it keeps its proportions, rounded to pixels."""
    height, width = picture.shape[1:]
    scale = min(scale, (MOST_PIXELS / (height * width)) ** 0.5)
    return resampled(picture, max(1, round(height * scale)), max(1, round(width * scale)))


def laid_on(hint: Tensor, height: int, width: int, mode: ResizeMode) -> Tensor:
    """A hint (C, h, w) at the size of the picture that is made.

    "just resize" stretches it; "crop and resize" covers the size and cuts what sticks out; "resize and fill" fits
    inside, with the median colour of its border around it. A hint that is off by a pixel, as rounding leaves it, is cut
    or continued rather than sampled again, so that thin lines stay thin.
    """
    if mode == "just resize":
        return _nearly(hint, height, width) if _is_near(hint, height, width) else resampled(hint, height, width)
    own = hint.shape[1:]
    scales = (height / own[0], width / own[1])
    scale = max(scales) if mode == "crop and resize" else min(scales)
    inner = (round(own[0] * scale), round(own[1] * scale))
    # what is off by a pixel on the side that decides the scale already has the size that it is to have
    if abs(inner[0] - own[0]) > 1 or abs(inner[1] - own[1]) > 1:
        hint = resampled(hint, max(1, inner[0]), max(1, inner[1]))
    if mode == "crop and resize":
        return _cut(_continued(hint, height, width), height, width)
    return _filled(_cut(hint, height, width), height, width)


def resampled(picture: Tensor, height: int, width: int) -> Tensor:
    """A picture (C, h, w) at another size, without ringing."""
    if picture.shape[1:] == (height, width):
        return picture
    return F.interpolate(picture[None], (height, width), mode="bilinear", antialias=True)[0]


def _is_near(hint: Tensor, height: int, width: int) -> bool:
    return abs(hint.shape[1] - height) <= 1 and abs(hint.shape[2] - width) <= 1


def _nearly(hint: Tensor, height: int, width: int) -> Tensor:
    return _cut(_continued(hint, height, width), height, width)


def _continued(hint: Tensor, height: int, width: int) -> Tensor:
    """With its last rows and columns repeated where it is a pixel too small."""
    down, right = max(0, height - hint.shape[1]), max(0, width - hint.shape[2])
    return F.pad(hint[None], (0, right, 0, down), mode="replicate")[0] if down or right else hint


def _cut(hint: Tensor, height: int, width: int) -> Tensor:
    """The middle of what is too large."""
    top, left = max(0, (hint.shape[1] - height) // 2), max(0, (hint.shape[2] - width) // 2)
    return hint[:, top : top + height, left : left + width]


def _filled(hint: Tensor, height: int, width: int) -> Tensor:
    """In the middle of its border's median colour."""
    border = torch.cat([hint[:, 0], hint[:, -1], hint[:, :, 0], hint[:, :, -1]], dim=1)
    whole = border.median(dim=1).values[:, None, None].repeat(1, height, width)
    top, left = (height - hint.shape[1]) // 2, (width - hint.shape[2]) // 2
    whole[:, top : top + hint.shape[1], left : left + hint.shape[2]] = hint
    return whole
