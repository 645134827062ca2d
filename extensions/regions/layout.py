"""Regions as masks: columns and rows by their ratios, or drawn ones; and each part's share of every cell."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from backend.api import BadRequest, box_region, region_map

MOST = 16  # regions of a layout
_HINT = "Write widths of columns, as in 1,2,1; rows are separated by a semicolon: 1,1; 1, or with heights 2: 1,1; 1: 1."


def split_masks(layout: str, height: int, width: int) -> Tensor:
    """The cells of a layout row by row, (R, height, width); they sum to 1 in every cell.

    Raises:
        BadRequest: what is no layout, or one of more than 16 regions.
    """
    rows = [_row(layout, row) for row in layout.split(";") if row.strip()]
    if not rows or sum(len(widths) for _, widths in rows) > MOST:
        raise BadRequest(
            f"Regions: the layout {layout[:60]!r} has none, or more than {MOST}.", _HINT, field="extensions"
        )
    masks: list[Tensor] = []
    for (top, bottom), (_, widths) in zip(_spans([tall for tall, _ in rows]), rows, strict=True):
        masks += [box_region((left, top, right, bottom), height, width) for left, right in _spans(widths)]
    return torch.stack(masks)


def drawn_masks(pictures: list[Image.Image], height: int, width: int) -> Tensor:
    """Masks (R, height, width), 0 to 1, of pictures that are white where a region is; they are stretched to fit.

    Raises:
        BadRequest: a picture without a white place.
    """
    masks: list[Tensor] = []
    for number, picture in enumerate(pictures, start=1):
        pixels = torch.from_numpy(np.asarray(picture.convert("L"), dtype=np.float32) / 255)
        mask = region_map(pixels, height, width)[0, 0]
        if not bool(mask.any()):
            raise BadRequest(
                f"Regions: drawn region {number} is empty.", "Draw it, or take it out.", field="extensions"
            )
        masks.append(mask)
    return torch.stack(masks)


def feathered(masks: Tensor, cells: float) -> Tensor:
    """The masks with edges that fade over so many cells; what summed to 1 still does."""
    reach = round(cells / 2)
    for _ in range(2 if reach else 0):  # twice a box is a tent
        padded = F.pad(masks[None], (reach,) * 4, mode="replicate")
        masks = F.avg_pool2d(padded, 2 * reach + 1, stride=1)[0]
    return masks


def shares(masks: Tensor, weights: list[float], base: float | None) -> Tensor:
    """How much each prompt counts in each cell, (R or R + 1, h, w), the base prompt's first; they sum to 1.

    What no region covers is the base prompt's, and without one every region's in equal parts.

    Args:
        masks: (R, h, w), 0 to 1.
        base: the base prompt's share where regions are; None: there is no base prompt.
    """
    covered = masks.sum(0).clamp(max=1)
    strengths = torch.tensor(weights).view(-1, 1, 1)
    if base is None:
        parts = strengths * (masks + (1 - covered) / len(masks))
    else:
        parts = torch.cat([(1 - (1 - base) * covered)[None], (1 - base) * strengths * masks])
    whole = parts.sum(0)
    even = torch.full_like(parts, 1 / len(parts))  # where every weight is 0
    return torch.where(whole > 0, parts / whole.clamp(min=1e-12), even)


def extents(masks: Tensor, *, has_base: bool) -> Tensor:
    """Where each part is at all, as ``shares`` orders them; a base prompt in all of the picture."""
    if has_base:
        return torch.cat([torch.ones_like(masks[:1]), masks])
    return (masks + 1 - masks.sum(0).clamp(max=1)).clamp(max=1)


def read_weights(written: str, regions: int) -> list[float]:
    """One weight a region, from 0 to 10; those that are not written are 1.

    Raises:
        BadRequest: what is no number, or more numbers than regions.
    """
    try:
        weights = [float(each) for each in written.replace(";", ",").split(",") if each.strip()]
    except ValueError:
        weights = [math.nan]
    if len(weights) > regions or not all(0 <= weight <= 10 for weight in weights):
        raise BadRequest(
            f"Regions: the weights {written[:60]!r} cannot be read for {regions} region{'s' if regions > 1 else ''}.",
            "Write one number from 0 to 10 for each region, as in 1, 0.8.",
            field="extensions",
        )
    return weights + [1.0] * (regions - len(weights))


def _row(layout: str, written: str) -> tuple[float, list[float]]:
    """Height and widths of a row."""
    tall, colon, columns = written.rpartition(":")
    try:
        height = float(tall) if colon else 1.0
        widths = [float(width) for width in columns.split(",")]
    except ValueError:
        height, widths = math.nan, []
    if not (widths and all(0 < number < math.inf for number in (height, *widths))):
        row, whole = written.strip()[:40], layout[:60]
        raise BadRequest(f"Regions: {row!r} in the layout {whole!r} is no row of columns.", _HINT, field="extensions")
    return height, widths


def _spans(ratios: list[float]) -> list[tuple[float, float]]:
    """Where each begins and ends, as shares of the whole length."""
    whole = sum(ratios)
    edges = [sum(ratios[:number]) / whole for number in range(len(ratios))] + [1.0]
    return list(pairwise(edges))
