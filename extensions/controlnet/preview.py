"""The Preview button of a unit: the hint as its network would get it, without making a picture."""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor

from backend.api import ActionResult, ActionSpec, JobView, StartPicture, units_of
from extensions.controlnet.geometry import laid_on
from extensions.controlnet.hints import hint_of, pixels
from extensions.controlnet.parameters import PANEL, UnitParameters


def preview(unit: UnitParameters, label: str, job: JobView) -> ActionResult:
    """The hint, at the size that would be made.

    Of a job that repaints only the masked area, the whole picture is shown: which part it will be is told by the job.

    Raises:
        BadRequest: as ``hint_of``.
    """
    size = size_of(job)
    start = start_of(job, size)
    hint = hint_of(unit, label, job, start, size)
    words = f"{size[1]} × {size[0]} pixels"
    if hint.shows:
        words += f", shows {hint.shows}"
    if start is not None and start.mask is not None and job.request.inpaint_area == "only masked":
        words += ". The job will see the masked area of it alone, at this size"
    return ActionResult(picture=_image(hint.picture[0]), text=f"{words}.")


def _of_the_panel(job: JobView) -> ActionResult:
    unit = next(unit for unit in units_of(job, PANEL, UnitParameters) if unit.panel == job.panel)
    return preview(unit.values, unit.label, job)


PREVIEW = ActionSpec("preview", "Preview the hint", _of_the_panel, help="Shows what the network will see.")


def size_of(job: JobView) -> tuple[int, int]:
    """Height and width that would be made: as the form says, else as the checkpoint wants it."""
    request = job.request
    if request.width and request.height:
        return request.height, request.width
    defaults = job.checkpoint().defaults
    return request.height or defaults.height, request.width or defaults.width


def start_of(job: JobView, size: tuple[int, int]) -> StartPicture | None:
    """The picture that img2img or inpaint starts from, whole, at the size that would be made."""
    request = job.request
    if request.init_image is None:
        return None
    mode = request.resize_mode
    picture = laid_on(pixels(job.picture(request.init_image)), *size, mode)
    mask: Tensor | None = None
    if request.mask is not None:
        mask = laid_on(pixels(job.mask(request.mask)), *size, mode)[None]
        mask = 1 - mask if request.invert_mask else mask
    return StartPicture(picture[None], mask, (size[1], size[0]), (0, 0, size[1], size[0]))


def _image(hint: Tensor) -> Image.Image:
    """(3, H, W) as a picture; where the network is to paint, it is black."""
    array = (hint.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    return Image.fromarray(array, "RGB")
