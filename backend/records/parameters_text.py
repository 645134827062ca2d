"""A1111's parameters text as it is written: prompt, negative prompt and one line of ``Key: value`` pairs.

The text is what other programs read; it cannot carry every request (a prompt may itself contain such lines), so
Easel's own files hold the request as JSON too (``metadata.py``). ``read_parameters`` is the way back.

Source: AUTOMATIC1111 ``modules/processing.py`` create_infotext (order) and ``modules/infotext_utils.py`` (quoting).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import fields
from functools import cache

from backend.records.panel_texts import panel_pairs
from backend.records.registry import Registry, label_of
from backend.request import GenerationRequest, request_schema

NEGATIVE = "Negative prompt:"

#: Keys that tell of the making and set nothing: key -> name of the fact.
FACT_KEYS: Mapping[str, str] = {
    "Model hash": "model_hash",
    "VAE hash": "vae_hash",
    "Init image hash": "init_image_hash",
    "TI hashes": "ti_hashes",
    "File hashes": "file_hashes",
    "Lora hashes": "lora_hashes",
    "RNG": "rng",
    "Device": "device",
    "Precision": "dtype",
    "Guidance": "guidance",
    "Version": "version",
    "User": "user",
}
_FACT_LABELS = {name: key for key, name in FACT_KEYS.items()}
_WRITTEN_APART = frozenset(
    {
        "prompt", "negative_prompt", "checkpoint", "vae", "width", "height", "steps", "sampler", "schedule",
        "cfg_scale", "seed", "variation_seed", "variation_strength", "clip_skip", "init_image", "denoise", "mask",
        "batch_size", "batch_count", "image_format", "invert_mask", "mask_blur", "masked_content", "inpaint_area",
        "masked_padding", "refiner", "refiner_switch",
    }
)  # fmt: skip


def parameters_text(request: GenerationRequest, facts: Mapping[str, str], registry: Registry, *, index: int = 0) -> str:
    """The text of the picture ``index`` of a resolved request, in A1111's order.

    Args:
        facts: what the engine knows beside the request: model_hash, vae_hash, device, dtype, guidance, version ...
    """
    pairs = ", ".join(f"{key}: {_quoted(value)}" for key, value in _pairs(request, facts, registry, index))
    negative = f"\n{NEGATIVE} {request.negative_prompt}" if request.negative_prompt else ""
    return f"{request.prompt}{negative}\n{pairs}".strip()


@cache
def titles() -> Mapping[str, str]:
    """Field of a request -> its title, which is its key here where A1111 has none."""
    return {name: str(node.get("title", name)) for name, node in request_schema()["properties"].items()}


def _pairs(
    request: GenerationRequest, facts: Mapping[str, str], registry: Registry, index: int
) -> Iterator[tuple[str, str]]:
    seed, variation = request.seeds_of(index)
    if request.steps is not None:
        yield "Steps", str(request.steps)
    if request.sampler is not None:
        yield "Sampler", label_of(registry, "samplers", request.sampler)
    if request.schedule is not None:
        yield "Schedule type", label_of(registry, "schedules", request.schedule)
    if request.cfg_scale is not None:
        yield "CFG scale", _number(request.cfg_scale)
    yield "Seed", str(seed)
    if request.width is not None and request.height is not None:
        yield "Size", f"{request.width}x{request.height}"
    yield from _model_pairs(request, facts)
    if request.variation_strength > 0:
        yield "Variation seed", str(variation)
        yield "Variation seed strength", _number(request.variation_strength)
    if request.init_image is not None:
        yield "Denoising strength", _number(request.denoise)
    if request.clip_skip is not None:  # 1 too, which is not what SDXL takes by itself
        yield "Clip skip", str(request.clip_skip)
    if request.init_image is not None:
        yield "Init image hash", request.init_image[:10]
    yield "RNG", "CPU"
    if request.is_inpaint:
        yield from _inpaint_pairs(request)
    for field in fields(request):
        value = getattr(request, field.name)
        if field.name not in _WRITTEN_APART and value not in (None, {}, field.default):
            yield titles()[field.name], _text(value)
    yield from panel_pairs(request.extensions, _by_name(facts.get("file_hashes", "")), registry)
    named = {"model_hash", "vae_hash", "refiner_hash", "model", "vae", "version"}
    for name, value in facts.items():
        if name not in named and value:
            yield _FACT_LABELS.get(name, name.replace("_", " ").capitalize()), str(value)
    yield "Version", f"Easel {facts['version']}" if "version" in facts else "Easel"


def _model_pairs(request: GenerationRequest, facts: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    if "model_hash" in facts:
        yield "Model hash", facts["model_hash"]
    if request.checkpoint:
        yield "Model", request.checkpoint
    if "vae_hash" in facts:
        yield "VAE hash", facts["vae_hash"]
    if request.vae:
        yield "VAE", request.vae
    if request.refiner:
        known = f" [{facts['refiner_hash']}]" if "refiner_hash" in facts else ""
        yield "Refiner", request.refiner + known
        yield "Refiner switch at", _number(request.refiner_switch)


def _inpaint_pairs(request: GenerationRequest) -> Iterator[tuple[str, str]]:
    yield "Mask blur", str(request.mask_blur)
    if request.invert_mask:
        yield "Mask mode", "Inpaint not masked"
    yield "Masked content", request.masked_content
    yield "Inpaint area", request.inpaint_area.capitalize()
    if request.inpaint_area == "only masked":
        yield "Masked area padding", str(request.masked_padding)


def _by_name(hashes: str) -> dict[str, str]:
    """What "name: hash, name: hash" says."""
    return {name: digits for name, _, digits in (pair.rpartition(": ") for pair in hashes.split(", ")) if name}


def _quoted(value: str) -> str:
    """A1111's quoting, with commas inside as ``\\u002c``: sd-parsers and others split at every comma."""
    if value and value == value.strip() and not any(mark in value for mark in ',\n\r:"'):
        return value
    return json.dumps(value, ensure_ascii=False).replace(",", "\\u002c")


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(value)


def _text(value: object) -> str:
    if isinstance(value, Mapping):
        return json.dumps(value, ensure_ascii=False)
    return _number(value) if isinstance(value, float) else str(value)
