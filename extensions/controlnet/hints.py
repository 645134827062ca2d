"""From a unit's picture to the hint that its network reads: cut out, prepared, laid on the picture that is made."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from backend.api import BadRequest, Canvas, HintKind, HintPicture, JobView, PreprocessorSpec, unknown_name
from extensions.controlnet.geometry import ResizeMode, at_scale, laid_on, pixel_perfect, resampled
from extensions.controlnet.parameters import UnitParameters

_WHOLE = (0.0, 0.0, 1.0, 1.0)
_LONGEST = 4096  # pixels of a side of what a part is cut from


def hint_of(unit: UnitParameters, label: str, job: JobView, canvas: Canvas, size: tuple[int, int]) -> HintPicture:
    """The hint of a unit.

    Args:
        label: of the unit, for errors.
        canvas: what the job starts from; its picture is taken if the unit has none of its own. Where only a masked area
            is repainted, the unit's own picture is cut in the same way.
        size: height and width of the picture that is made.
    Raises:
        BadRequest: there is no picture, or a mask is missing.
    """
    spec = preprocessor_of(unit, job)
    picture = picture_of(unit, label, job, canvas)
    mask = None if canvas.mask is None else pixels(canvas.mask)
    hint = drawn_by(spec, unit, picture, mask, size)
    return HintPicture(hint[None], shown_by(unit, spec), None if mask is None else mask[None])


def drawn_by(
    spec: PreprocessorSpec, unit: UnitParameters, picture: Tensor, mask: Tensor | None, size: tuple[int, int]
) -> Tensor:
    """What the preprocessor makes of a picture (3, h, w), at the size of the picture that is made, (3, *size).

    Args:
        mask: (1, *size), of the picture that is made.
    """
    if spec.wants_mask and mask is not None:
        picture = laid_on(picture, *size, unit.resize_mode)
    height, width = picture.shape[1:]
    scale = pixel_perfect(height, width, *size, unit.resize_mode)
    scaled = at_scale(picture, scale if unit.pixel_perfect else unit.resolution / min(height, width))
    own_mask = resampled(mask, *scaled.shape[1:]) if spec.wants_mask and mask is not None else None
    return laid_on(spec.hint(scaled, unit.options, own_mask), *size, unit.resize_mode)


def picture_of(unit: UnitParameters, label: str, job: JobView, canvas: Canvas) -> Tensor:
    """The unit's picture, (3, h, w), 0 to 1; else the one that the job starts from.

    Raises:
        BadRequest: there is neither.
    """
    if unit.picture:
        return _cut_alike(pixels(job.picture(unit.picture)), canvas, unit.resize_mode)
    if canvas.image is None:
        raise BadRequest(
            f"{label} has no picture, and the job starts from none.",
            "Give it a picture, or switch it off.",
            field="extensions",
        )
    return pixels(canvas.image)


def region_of(unit: UnitParameters, job: JobView, canvas: Canvas, size: tuple[int, int]) -> Tensor | None:
    """Where the unit acts, (*size), 0 to 1; None: everywhere."""
    if not unit.region:
        return None
    return resampled(_cut_alike(pixels(job.mask(unit.region)), canvas, "just resize"), *size)[0]


def preprocessor_of(unit: UnitParameters, job: JobView) -> PreprocessorSpec:
    """The one that the unit names.

    Raises:
        BadRequest: naming the nearest known one.
    """
    spec = job.preprocessors.get(unit.preprocessor)
    if spec is None:
        raise BadRequest(unknown_name("Preprocessor", unit.preprocessor, job.preprocessors), field="extensions")
    return spec


def shown_by(unit: UnitParameters, spec: PreprocessorSpec) -> HintKind | None:
    """What the hint shows: as the unit says, else as its preprocessor does."""
    return spec.shows if unit.shows == "as the preprocessor says" else unit.shows


def pixels(image: Image.Image) -> Tensor:
    """A picture as (3, h, w), or a mask as (1, h, w), float32, 0 to 1."""
    array = np.asarray(image if image.mode == "L" else image.convert("RGB"), dtype=np.float32) / 255
    return torch.from_numpy(array[None] if array.ndim == 2 else array.transpose(2, 0, 1).copy())


def _cut_alike(picture: Tensor, canvas: Canvas, mode: ResizeMode) -> Tensor:
    """A picture laid over the one that the job starts from, and cut to the part that is worked on.

    The cut is as large as it is in the picture that is made, unless the whole would be larger than is sensible.
    """
    if canvas.box == _WHOLE or canvas.image is None:
        return picture
    left, top, right, bottom = canvas.box
    width, height = canvas.image.width / (right - left), canvas.image.height / (bottom - top)
    shrink = min(1.0, _LONGEST / max(width, height))
    height, width = round(height * shrink), round(width * shrink)
    laid = laid_on(picture, height, width, mode)
    rows, columns = slice(round(top * height), round(bottom * height)), slice(round(left * width), round(right * width))
    return laid[:, rows, columns].clone()
