"""Soft edges and scribbles, from differences of blurs: what no trained edge detector is needed for."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from backend.api import BadRequest, Parameters, number, whole
from extensions.controlnet.preprocessors.tones import intensity_of

_SLACK = 1.6  # between neighbouring scales of a soft edge
_BRIGHTEST = 99.5  # percentile of the slopes that becomes white


class SoftEdgeParameters(Parameters):
    """Which widths of edges are drawn, and how boldly."""

    finest: float = number(0.8, low=0.3, high=8.0, step=0.1, label="Finest edge", help="Its blur in pixels.")
    coarsest: float = number(3.0, low=0.3, high=16.0, step=0.1, label="Coarsest edge", help="Of the softest.")
    contrast: float = number(1.0, low=0.3, high=3.0, step=0.1, label="Contrast", help="Above 1 weak edges fade.")


class ScribbleParameters(Parameters):
    """What becomes a stroke, and how thick it is."""

    threshold: int = whole(32, low=1, high=64, label="Threshold", help="Lower: more strokes.")
    thickness: int = whole(1, low=0, high=8, label="Thickness", help="Pixels added on every side.")


def soft_edges(picture: Tensor, parameters: SoftEdgeParameters, mask: Tensor | None = None) -> Tensor:
    """The slopes of the blurred picture, the steepest of several blurs; weak ones grey, steep ones white.

    A slope times its blur's width is the same for an edge at any scale (Lindeberg 1998, "Edge detection and ridge
    detection with automatic scale selection"). It is no HED or PIDI: textures count as much as outlines.

    Args:
        picture: (3, H, W), 0 to 1.
    Returns:
        (1, H, W), 0 to 1.
    Raises:
        BadRequest: if the finest edge is coarser than the coarsest.
    """
    del mask
    if parameters.finest > parameters.coarsest:
        raise BadRequest(
            f"Soft edges: the finest edge {parameters.finest:g} is coarser than the coarsest {parameters.coarsest:g}.",
            "Swap them.",
            field="extensions",
        )
    pixels = picture.numpy()
    strongest = np.zeros(pixels.shape[1:], dtype=np.float32)
    for sigma in scales(parameters.finest, parameters.coarsest):
        down = ndimage.gaussian_filter(pixels, (0, sigma, sigma), order=(0, 1, 0), mode="nearest")
        right = ndimage.gaussian_filter(pixels, (0, sigma, sigma), order=(0, 0, 1), mode="nearest")
        strongest = np.maximum(strongest, sigma * np.hypot(down, right).max(axis=0))
    white = max(float(np.percentile(strongest, _BRIGHTEST)), 0.02)  # a flat picture's grain stays black
    return torch.from_numpy((strongest / white).clip(0, 1).astype(np.float32) ** parameters.contrast)[None]


def scales(finest: float, coarsest: float) -> list[float]:
    """Blurs from one to the other, each the same factor wider than the one before."""
    steps = max(1, round(np.log(coarsest / finest) / np.log(_SLACK)))
    return [finest * (coarsest / finest) ** (step / steps) for step in range(steps + 1)]


def scribble(picture: Tensor, parameters: ScribbleParameters, mask: Tensor | None = None) -> Tensor:
    """White strokes where all colours are darker than what is around them.

    Differences of Gaussian blurs with a threshold (Winnemöller et al. 2012, "XDoG"), with the blurs of 0.5 and 5
    pixels, and the threshold's scale, that ControlNet's extension has.

    Returns:
        (1, H, W), each number 0 or 1.
    """
    del mask
    pixels = picture.numpy()
    darker = _blurred(pixels, 5.0) - _blurred(pixels, 0.5)
    strokes = darker.min(axis=0) > parameters.threshold / 510
    if parameters.thickness:
        strokes = ndimage.binary_dilation(strokes, _disc(parameters.thickness))
    return torch.from_numpy(strokes.astype(np.float32))[None]


def _blurred(pixels: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    return ndimage.gaussian_filter(pixels, (0, sigma, sigma), mode="mirror")


def _disc(radius: int) -> NDArray[np.bool_]:
    side = np.arange(-radius, radius + 1)
    return side[:, None] ** 2 + side[None] ** 2 <= (radius + 0.5) ** 2


class BinaryParameters(Parameters):
    """Where black ends."""

    threshold: int = whole(
        127, low=0, high=255, label="Threshold", help="Of the intensity; 0: from the picture (Otsu)."
    )


def binary(picture: Tensor, parameters: BinaryParameters, mask: Tensor | None = None) -> Tensor:
    """Black and white by intensity; strokes drawn dark on light become white on black with *Invert* before.

    Returns:
        (1, H, W), each number 0 or 1.
    """
    del mask
    grey = (intensity_of(picture) * 255).round()
    threshold = parameters.threshold or otsu(grey.numpy())
    return (grey > threshold).float()


def otsu(grey: NDArray[np.float32]) -> int:
    """The threshold that parts 8-bit greys into two groups with the least variance within them.

    Source: Otsu 1979, "A threshold selection method from gray-level histograms", equations 14 to 18.
    """
    counts = np.bincount(grey.astype(np.int64).ravel(), minlength=256).astype(np.float64)
    share = counts / counts.sum()
    below, mean = share.cumsum(), (share * np.arange(256)).cumsum()
    parted = (below > 0) & (below < 1)
    between = np.zeros(256)
    between[parted] = (mean[-1] * below[parted] - mean[parted]) ** 2 / (below[parted] * (1 - below[parted]))
    return int(between.argmax())
