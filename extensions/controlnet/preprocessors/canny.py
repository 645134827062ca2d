"""Canny's edges, to the pixel as OpenCV draws them, which is what ControlNets for edges were trained on.

Source: Canny 1986, "A computational approach to edge detection"; OpenCV 4 ``canny.cpp`` for gradients in whole numbers,
their sum of amounts as strength, and which neighbours a direction means.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from backend.api import BadRequest, Parameters, number, whole

Whole = NDArray[np.int32]

_TAN_22_5 = 13573  # tan(22.5 degrees) * 2**15, rounded, as OpenCV has it
_EVERY_NEIGHBOUR = np.ones((3, 3), dtype=bool)


class CannyParameters(Parameters):
    """Thresholds on a gradient's strength, in steps of 8-bit colours."""

    low: int = whole(100, low=1, high=1020, label="Low threshold", help="Of edges that join strong ones.")
    high: int = whole(200, low=1, high=1020, label="High threshold", help="Of edges that count by themselves.")
    smoothing: float = number(
        0.0, low=0.0, high=5.0, step=0.1, label="Smoothing", help="Gaussian blur before, in pixels: less from noise."
    )


def canny(picture: Tensor, parameters: CannyParameters, mask: Tensor | None = None) -> Tensor:
    """White edges, one pixel wide, on black.

    Args:
        picture: (3, H, W), 0 to 1.
    Returns:
        (1, H, W), each number 0 or 1.
    Raises:
        BadRequest: if the low threshold is above the high one.
    """
    del mask
    if parameters.low > parameters.high:
        raise BadRequest(
            f"Canny: the low threshold {parameters.low} is above the high one {parameters.high}.",
            "Swap them.",
            field="extensions",
        )
    pixels = (picture * 255).round().numpy()
    if parameters.smoothing:
        pixels = ndimage.gaussian_filter(pixels, (0, parameters.smoothing, parameters.smoothing), mode="mirror").round()
    edges = traced(thinned(*gradients(pixels.astype(np.int32)), parameters.low), parameters.high)
    return torch.from_numpy(edges.astype(np.float32))[None]


def gradients(pixels: Whole) -> tuple[Whole, Whole]:
    """Sobel's slopes to the right and downwards, (H, W) each; of the colours the one that changes most.

    Args:
        pixels: (C, H, W), 0 to 255.
    """
    padded = np.pad(pixels, ((0, 0), (1, 1), (1, 1)), mode="edge")
    down = padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]  # smoothed over rows, (C, H, W + 2)
    across = padded[:, :, :-2] + 2 * padded[:, :, 1:-1] + padded[:, :, 2:]  # over columns, (C, H + 2, W)
    dx, dy = down[:, :, 2:] - down[:, :, :-2], across[:, 2:] - across[:, :-2]
    strongest = (np.abs(dx) + np.abs(dy)).argmax(axis=0)[None]  # the first of equals
    return np.take_along_axis(dx, strongest, axis=0)[0], np.take_along_axis(dy, strongest, axis=0)[0]


def thinned(dx: Whole, dy: Whole, low: int) -> Whole:
    """Strengths where they exceed ``low`` and both neighbours along the gradient, 0 elsewhere.

    Of two equal neighbours to the right or below the first stays; outside the picture the strength is 0.
    """
    strength = np.abs(dx) + np.abs(dy)
    around = np.pad(strength, 1)
    height, width = strength.shape

    def at(down: int, right: int) -> Whole:
        return around[1 + down : 1 + down + height, 1 + right : 1 + right + width]

    x, y = np.abs(dx).astype(np.int64), np.abs(dy).astype(np.int64) << 15
    flat = x * _TAN_22_5  # y below it: within 22.5 degrees of the horizontal
    steep = flat + (x << 16)  # tan(67.5) = tan(22.5) + 2
    falls = (dx ^ dy) < 0  # one slope up, one down: the other diagonal
    horizontal = (strength > at(0, -1)) & (strength >= at(0, 1))
    vertical = (strength > at(-1, 0)) & (strength >= at(1, 0))
    diagonal = np.where(
        falls,
        (strength > at(-1, 1)) & (strength > at(1, -1)),
        (strength > at(-1, -1)) & (strength > at(1, 1)),
    )
    is_top = np.where(y < flat, horizontal, np.where(y > steep, vertical, diagonal))
    return np.where(is_top & (strength > low), strength, 0)


def traced(strength: Whole, high: int) -> NDArray[np.bool_]:
    """Hysteresis: the connected edges in which at least one pixel is above ``high``."""
    joined, _ = ndimage.label(strength > 0, structure=_EVERY_NEIGHBOUR)
    kept = np.unique(joined[strength > high])
    return np.isin(joined, kept[kept > 0])
