"""The pictures of a unit: what its encoder is shown, and where it acts."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from backend.api import BadRequest, JobView, StartPicture
from extensions.ip_adapter.parameters import UnitParameters

_LONGEST = 4096  # pixels of a side of what a part is cut from


def picture_of(unit: UnitParameters, label: str, job: JobView, start: StartPicture | None) -> Image.Image:
    """The unit's picture; else the one that the job starts from.

    Raises:
        BadRequest: there is neither.
    """
    if unit.picture:
        return job.picture(unit.picture)
    if start is None:
        raise BadRequest(
            f"{label} has no picture, and the job starts from none.",
            "Give it a picture, or switch it off.",
            field="extensions",
        )
    pixels = (start.picture[0].permute(1, 2, 0) * 255).round().to(torch.uint8).cpu().numpy()
    return Image.fromarray(pixels)


def region_of(unit: UnitParameters, job: JobView, start: StartPicture | None) -> Tensor | None:
    """Where the unit acts, (h, w), 0 to 1; None: everywhere. Where a part is repainted, that part of the mask."""
    if not unit.region:
        return None
    mask = job.mask(unit.region)
    if start is not None and start.box != (0, 0, *start.whole):
        shrink = min(1.0, _LONGEST / max(start.whole))
        width, height = (max(1, round(side * shrink)) for side in start.whole)
        left, top, right, bottom = (round(edge * shrink) for edge in start.box)
        mask = mask.resize((width, height), Image.Resampling.BILINEAR)
        mask = mask.crop((left, top, max(right, left + 1), max(bottom, top + 1)))
    return torch.from_numpy(np.asarray(mask, dtype=np.float32) / 255)
