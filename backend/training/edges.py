"""Edge pictures for training edge ControlNets: Canny's method, in torch, on whole pools.

Source: Canny 1986, "A computational approach to edge detection", sections VI and VIII.
"""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import label
from torch import Tensor

#: Where a gradient points, as an angle from 0 to 180 degrees in eighths, and the neighbour in that direction (dy, dx).
_NEIGHBOURS = ((0, 1), (1, 1), (1, 0), (1, -1))
_AT_ONCE = 32  # pictures: a whole pool as floats, several times over, is gigabytes
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


def luminance(pixels: Tensor) -> Tensor:
    """(N, 3, H, W) in [0, 1] -> (N, H, W)."""
    return (pixels * torch.tensor(LUMA).view(1, 3, 1, 1)).sum(dim=1)


def gradients(x: Tensor) -> tuple[Tensor, Tensor]:
    """Sobel derivatives to the right and down, scaled to a difference of neighbours; shape as ``x``, (..., H, W)."""
    flat = F.pad(x.flatten(0, -3)[:, None], (1, 1, 1, 1), mode="replicate")
    smooth, slope = torch.tensor([1.0, 2.0, 1.0]) / 4, torch.tensor([-1.0, 0.0, 1.0])
    right = F.conv2d(flat, (smooth[:, None] * slope).view(1, 1, 3, 3))
    down = F.conv2d(flat, (slope[:, None] * smooth).view(1, 1, 3, 3))
    return right.view(x.shape), down.view(x.shape)


def edges(images: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Thin edges of pictures; of every pixel the colour that changes most is looked at.

    Args:
        images: (N, 3, H, W) uint8.
        low, high: (N,), thresholds of the gradient: edges reach down to ``low`` as long as they hang together with
            something above ``high``. Canny's usual 100 and 200 of a Sobel without scale are 0.1 and 0.2 here.
    Returns:
        (N, H, W) bool.
    """
    parts = zip(*(column.split(_AT_ONCE) for column in (images, low, high)), strict=True)
    return torch.cat([_edges(*part) for part in parts])


def _edges(images: Tensor, low: Tensor, high: Tensor) -> Tensor:
    right, down = gradients(_smoothed(images.float() / 255))
    strongest = torch.hypot(right, down).argmax(dim=1, keepdim=True)  # of the colours, (N, 1, H, W)
    right, down = right.gather(1, strongest)[:, 0], down.gather(1, strongest)[:, 0]
    steepness = torch.hypot(right, down)
    ridge = _is_ridge(steepness, right, down)
    weak = ridge & (steepness > low[:, None, None])
    strong = ridge & (steepness > high[:, None, None])
    return torch.stack([_reached(*pair) for pair in zip(weak, strong, strict=True)])


def _reached(weak: Tensor, strong: Tensor) -> Tensor:
    """What of ``weak`` hangs together with something ``strong``, corners included; (H, W) bool all."""
    pieces = np.asarray(cast("tuple[np.ndarray, int]", label(weak.numpy(), structure=np.ones((3, 3))))[0])
    is_kept = np.zeros(int(pieces.max()) + 1, dtype=bool)
    is_kept[np.unique(pieces[strong.numpy()])] = True
    is_kept[0] = False  # no piece
    return torch.from_numpy(is_kept[pieces])


def random_edges(images: Tensor, generator: torch.Generator) -> Tensor:
    """Edges at thresholds drawn for each picture, as people set them differently; (N, H, W) bool."""
    high = 0.06 + 0.16 * torch.rand(len(images), generator=generator)
    low = high * (0.3 + 0.4 * torch.rand(len(images), generator=generator))
    return edges(images, low, high)


def agreement(found: Tensor, hint: Tensor, reach: int = 2) -> tuple[float, float]:
    """How well edges keep to a hint: the share of the hint that is found, and of what is found that is in the hint.

    Args:
        found, hint: (N, H, W) bool; an edge may be ``reach`` pixels off.
    """
    recall = (hint & _dilated(found, reach)).sum() / hint.sum().clamp(min=1)
    precision = (found & _dilated(hint, reach)).sum() / found.sum().clamp(min=1)
    return float(recall), float(precision)


def _smoothed(x: Tensor) -> Tensor:
    """A Gaussian of one pixel's deviation over (N, C, H, W)."""
    kernel = torch.exp(-0.5 * torch.arange(-2.0, 3.0) ** 2)
    kernel = kernel / kernel.sum()
    padded = F.pad(x.flatten(0, 1)[:, None], (2, 2, 2, 2), mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel.view(1, 1, 1, 5)), kernel.view(1, 1, 5, 1)).view(x.shape)


def _is_ridge(steepness: Tensor, right: Tensor, down: Tensor) -> Tensor:
    """Whether a pixel's gradient is no smaller than those before and behind it, across the edge."""
    eighth = torch.remainder(torch.round(torch.atan2(down, right) / (torch.pi / 4)), 4)
    padded = F.pad(steepness, (1, 1, 1, 1))
    height, width = steepness.shape[-2:]
    ridge = torch.zeros_like(steepness, dtype=torch.bool)
    for direction, (dy, dx) in enumerate(_NEIGHBOURS):
        ahead = padded[:, 1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width]
        behind = padded[:, 1 - dy : 1 - dy + height, 1 - dx : 1 - dx + width]
        ridge |= (eighth == direction) & (steepness >= ahead) & (steepness > behind)
    return ridge


def _dilated(mask: Tensor, reach: int) -> Tensor:
    return F.max_pool2d(mask[:, None].float(), 2 * reach + 1, stride=1, padding=reach)[:, 0] > 0
