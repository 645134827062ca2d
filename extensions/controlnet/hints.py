"""From a unit's picture to the hint that its network reads: cut out, prepared, laid on the picture that is made."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from backend.api import BadRequest, HintKind, HintPicture, JobView, PreprocessorSpec, StartPicture, unknown_name
from extensions.controlnet.geometry import ResizeMode, at_scale, laid_on, pixel_perfect, resampled
from extensions.controlnet.parameters import UnitParameters

_LONGEST = 4096  # pixels of a side of what a part is cut from


def hint_of(
    unit: UnitParameters, label: str, job: JobView, start: StartPicture | None, size: tuple[int, int]
) -> HintPicture:
    """The hint of a unit.

    Args:
        label: of the unit, for errors.
        start: what the job starts from, which is taken if the unit has none of its own. Where only a masked area
            is repainted, the unit's own picture is cut in the same way.
        size: height and width of the picture that is made.
    Raises:
        BadRequest: there is no picture, or a mask is missing.
    """
    spec = preprocessor_of(unit, job)
    picture = picture_of(unit, label, job, start)
    mask = None if start is None or start.mask is None else start.mask[0]
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


def picture_of(unit: UnitParameters, label: str, job: JobView, start: StartPicture | None) -> Tensor:
    """The unit's picture, (3, h, w), 0 to 1; else the one that the job starts from.

    Raises:
        BadRequest: there is neither.
    """
    if unit.picture:
        return _cut_alike(pixels(job.picture(unit.picture)), start, unit.resize_mode)
    if start is None:
        raise BadRequest(
            f"{label} has no picture, and the job starts from none.",
            "Give it a picture, or switch it off.",
            field="extensions",
        )
    return start.picture[0]


def region_of(unit: UnitParameters, job: JobView, start: StartPicture | None, size: tuple[int, int]) -> Tensor | None:
    """Where the unit acts, (*size), 0 to 1; None: everywhere."""
    if not unit.region:
        return None
    return resampled(_cut_alike(pixels(job.mask(unit.region)), start, "just resize"), *size)[0]


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


def _cut_alike(picture: Tensor, start: StartPicture | None, mode: ResizeMode) -> Tensor:
    """A picture laid over the one that the job starts from, and cut to the part that is worked on."""
    if start is None or start.box == (0, 0, *start.whole):
        return picture
    shrink = min(1.0, _LONGEST / max(start.whole))
    width, height = (round(side * shrink) for side in start.whole)
    left, top, right, bottom = (round(edge * shrink) for edge in start.box)
    return laid_on(picture, height, width, mode)[:, top : max(bottom, top + 1), left : max(right, left + 1)].clone()
