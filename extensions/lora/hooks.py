"""``<lora:fox:0.8>``, ``<lora:fox:te=0.5:unet=0.8>``, ``<lyco:fox:1:end=0.5:region=left>``: what a tag asks for.

Source: AUTOMATIC1111 ``extensions-builtin/Lora/extra_networks_lora.py`` (order and names of the values); ``start``,
``end`` and ``region`` are our own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from backend.api import (
    AdapterChoice,
    BadRequest,
    GenerationRequest,
    JobView,
    PromptTag,
    PromptTagSpec,
    box_region,
    hookimpl,
)
from extensions.lora.boxes import read_box

_STRENGTHS = ("te", "unet")
_WINDOW = ("start", "end")
_KEYS = {
    "start": "from this share of the steps on",
    "end": "until this share of the steps",
    "region": "left, right, top, bottom or x0,y0,x1,y1",
    "unet": "strength on the denoiser",
    "te": "strength on the text encoders",
}
_CELL = 8  # pixels
_EXAMPLE = "Write <lora:name:0.8>, <lora:name:te=0.5:unet=0.8>, or <lora:name:0.8:start=0.2:end=0.8:region=left>."


@hookimpl
def register_prompt_tags() -> Sequence[PromptTagSpec]:
    """Both names mean the same: a file tells itself of which kind it is."""
    return [PromptTagSpec("lora", "LoRA", keys=_KEYS), PromptTagSpec("lyco", "LyCORIS", keys=_KEYS)]


@hookimpl
def adapt_job(job: JobView, tags: Sequence[PromptTag]) -> Sequence[AdapterChoice]:
    """One adapter a tag; a tag in the negative prompt acts as one in the prompt: on the whole job."""
    return [choice_of(tag, job.request) for tag in tags]


def choice_of(tag: PromptTag, request: GenerationRequest) -> AdapterChoice:
    """The file and strengths that a tag means: one number for both, or the text encoders' before the U-Net's.

    A tag with a window or a region leaves the text encoders alone unless it gives them a strength of their own: they
    read a prompt once, for all steps and the whole picture.

    Raises:
        BadRequest: no name, too many values, an unknown key, what is no number, no part of the steps or the picture.
    """
    file, *strengths = tag.values
    unknown = [key for key in tag.named if key not in _KEYS]
    if not file or len(strengths) > len(_STRENGTHS) or unknown:
        wrong = f"{unknown[0]}= means nothing" if unknown else "its values cannot be read"
        raise BadRequest(f"{tag.text[:80]}: {wrong}.", _EXAMPLE, field=tag.field)
    first = _number(tag, strengths[0] if strengths else "1")
    told = {key: _number(tag, tag.named[key]) for key in _STRENGTHS if key in tag.named}
    is_whole = not any(key in tag.named for key in (*_WINDOW, "region"))
    text = told.get("te", first if len(strengths) > 1 or (is_whole and "unet" in told) else None)
    default = _number(tag, strengths[1]) if len(strengths) > 1 else text if is_whole and text is not None else first
    return AdapterChoice(
        file,
        denoiser=told.get("unet", default),
        text=text,
        field=tag.field,
        at=tag.at,
        start=_share(tag, "start", 0.0),
        end=_share(tag, "end", 1.0),
        region=_region(tag, request),
    )


def _share(tag: PromptTag, key: str, default: float) -> float:
    """A share of the steps; that it starts before it ends is seen by the engine."""
    return _number(tag, tag.named[key]) if key in tag.named else default


def _region(tag: PromptTag, request: GenerationRequest) -> Tensor | None:
    if "region" not in tag.named:
        return None
    box = read_box(tag.named["region"])
    if box is None:
        raise BadRequest(
            f"{tag.text[:80]}: {tag.named['region'][:30]!r} is no part of a picture.",
            "Write region=left, right, top or bottom, or four shares of its width and height from 0 to 1: "
            "region=0,0.5,0.5,1 is the lower left quarter.",
            field=tag.field,
        )
    return box_region(box, (request.height or _CELL) // _CELL, (request.width or _CELL) // _CELL)


def _number(tag: PromptTag, written: str) -> float:
    try:
        value = float(written)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise BadRequest(f"{tag.text[:80]}: {written[:20]!r} is not a number.", _EXAMPLE, field=tag.field)
    return value
