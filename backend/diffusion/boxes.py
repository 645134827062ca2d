"""Regions of a picture, (h, w) from 0 to 1: from a box in shares of its sides, and at another size."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

#: left, top, right and bottom, 0 to 1.
Box = tuple[float, float, float, float]


def box_region(box: Box, height: int, width: int) -> Tensor:
    """How much of each of ``height`` by ``width`` cells lies within the box, (height, width), 0 to 1."""
    left, top, right, bottom = box
    return torch.outer(_covered(top, bottom, height), _covered(left, right, width))


def region_map(region: Tensor, height: int, width: int) -> Tensor:
    """A region (h, w) at another size, (1, 1, height, width)."""
    return F.interpolate(region[None, None].float(), size=(height, width), mode="area")


def cut_region(region: Tensor, top: int, left: int, size: tuple[int, int], whole: tuple[int, int]) -> Tensor:
    """The part of a region (h, w) that ``size`` cells at ``top`` and ``left`` of ``whole`` see, one number a cell."""
    return region_map(region, *whole)[0, 0, top : top + size[0], left : left + size[1]]


def _covered(start: float, end: float, cells: int) -> Tensor:
    """How much of each of so many cells lies between two shares of their whole length."""
    edges = torch.arange(cells + 1, dtype=torch.float64) / cells
    inside = edges[1:].clamp(max=end) - edges[:-1].clamp(min=start)
    return (inside * cells).clamp(0, 1).float()
