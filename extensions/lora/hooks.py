"""``<lora:fox:0.8>``, ``<lora:fox:te=0.5:unet=0.8>``, ``<lyco:...>``: what a tag asks for.

Source: AUTOMATIC1111 ``extensions-builtin/Lora/extra_networks_lora.py`` (order and names of the values).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from backend.api import AdapterChoice, BadRequest, PromptTag, PromptTagSpec, hookimpl

_KEYS = ("te", "unet")
_EXAMPLE = "Write <lora:name:0.8>, or <lora:name:te=0.5:unet=0.8>."


@hookimpl
def register_prompt_tags() -> Sequence[PromptTagSpec]:
    """Both names mean the same: a file tells itself of which kind it is."""
    return [PromptTagSpec("lora", "LoRA"), PromptTagSpec("lyco", "LyCORIS")]


@hookimpl
def adapt_job(tags: Sequence[PromptTag]) -> Sequence[AdapterChoice]:
    """One adapter a tag; a tag in the negative prompt acts as one in the prompt: on the whole job."""
    return [choice_of(tag) for tag in tags]


def choice_of(tag: PromptTag) -> AdapterChoice:
    """The file and strengths that a tag means: one number for both, or the text encoders' before the U-Net's.

    Raises:
        BadRequest: no name, too many values, an unknown key, or what is no number.
    """
    file, *strengths = tag.values
    unknown = [key for key in tag.named if key not in _KEYS]
    if not file or len(strengths) > len(_KEYS) or unknown:
        wrong = f"{unknown[0]}= means nothing" if unknown else "its values cannot be read"
        raise BadRequest(f"{tag.text[:80]}: {wrong}.", _EXAMPLE, field=tag.field)
    text = _number(tag, tag.named.get("te", strengths[0] if strengths else "1"))
    default = strengths[1] if len(strengths) > 1 else None
    told = tag.named.get("unet", default)
    return AdapterChoice(file, text if told is None else _number(tag, told), text, tag.field)


def _number(tag: PromptTag, written: str) -> float:
    try:
        value = float(written)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise BadRequest(f"{tag.text[:80]}: {written[:20]!r} is not a strength.", _EXAMPLE, field=tag.field)
    return value
