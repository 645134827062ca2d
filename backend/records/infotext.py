"""A1111's parameters text, both ways: prompt, negative prompt and one line of ``Key: value`` pairs.

The text is what other programs read; it cannot carry every request (a prompt may itself contain such lines), so
Easel's own files hold the request as JSON too (``metadata.py``). Reading is linear in the length and never raises.

Source: AUTOMATIC1111 ``modules/processing.py`` create_infotext and ``modules/infotext_utils.py`` (order, quoting, and
that a last line with fewer than three pairs belongs to the prompt).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

from backend.errors import BadRequest
from backend.records.panel_texts import panel_pairs, take_panels
from backend.records.panel_words import Files
from backend.records.registry import Registry, find_registered, label_of
from backend.request import GenerationRequest, parse_request, request_schema

NEGATIVE = "Negative prompt:"
MIN_PAIRS = 3
MAX_PAIRS = 500
MAX_KEY = 100
MAX_NOTES = 20
MAX_SHOWN = 200  # characters of a leftover value

#: Key -> field, where the text says it in other words than the field's title.
_A1111_KEYS: Mapping[str, str] = {
    "Steps": "steps",
    "CFG scale": "cfg_scale",
    "Seed": "seed",
    "Model": "checkpoint",
    "VAE": "vae",
    "Variation seed": "variation_seed",
    "Variation seed strength": "variation_strength",
    "Denoising strength": "denoise",
    "Clip skip": "clip_skip",
    "Masked area padding": "masked_padding",
    "Refiner": "refiner",
    "Refiner switch at": "refiner_switch",
}
#: Keys that tell of the making and set nothing: key -> name of the fact.
_FACT_KEYS: Mapping[str, str] = {
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
_FACT_LABELS = {name: key for key, name in _FACT_KEYS.items()}
_WRITTEN_APART = frozenset(
    {
        "prompt", "negative_prompt", "checkpoint", "vae", "width", "height", "steps", "sampler", "schedule",
        "cfg_scale", "seed", "variation_seed", "variation_strength", "clip_skip", "init_image", "denoise", "mask",
        "batch_size", "batch_count", "image_format", "invert_mask", "mask_blur", "masked_content", "inpaint_area",
        "masked_padding", "refiner", "refiner_switch",
    }
)  # fmt: skip
#: What A1111 calls schedules that are ours under another label ("Uniform" differs from Normal in the last sigma only).
_SCHEDULE_ALIASES: Mapping[str, str] = {"ddim": "ddim_uniform", "uniform": "normal"}


@dataclass(frozen=True)
class Parsed:
    """What a parameters text says: valid request fields, facts of the making, and what has no place here.

    ``notes`` are sentences on panels' values that others wrote and that are taken otherwise, or not.
    """

    fields: dict[str, Any]
    facts: dict[str, str]
    leftovers: dict[str, str]
    notes: tuple[str, ...] = ()


def parameters_text(request: GenerationRequest, facts: Mapping[str, str], registry: Registry, *, index: int = 0) -> str:
    """The text of the picture ``index`` of a resolved request, in A1111's order.

    Args:
        facts: what the engine knows beside the request: model_hash, vae_hash, device, dtype, guidance, version ...
    """
    pairs = ", ".join(f"{key}: {_quoted(value)}" for key, value in _pairs(request, facts, registry, index))
    negative = f"\n{NEGATIVE} {request.negative_prompt}" if request.negative_prompt else ""
    return f"{request.prompt}{negative}\n{pairs}".strip()


def read_parameters(text: str, registry: Registry, files: Files | None = None) -> Parsed:
    """Fields, facts and leftovers of a text by A1111 or its kin; a text without pairs is a prompt.

    Args:
        files: to find the files that panels' keys name; without it such names stay as they are written.
    """
    *above, last = text.strip().split("\n")
    pairs = dict(_scan(last))
    if len(pairs) < MIN_PAIRS:
        above, pairs = [*above, last], {}
    prompt, negative = _prompts(above)
    found: dict[str, Any] = {"prompt": prompt}
    if negative:
        found["negative_prompt"] = negative
    facts: dict[str, str] = {}
    leftovers: dict[str, str] = {}
    notes: list[str] = []
    panels = take_panels(pairs, registry, files)
    if panels.extensions and _titles()["extensions"] not in pairs:  # else they stand there in our own words
        found["extensions"] = panels.extensions
        notes, leftovers = panels.notes[:MAX_NOTES], panels.leftovers
    _take_sampler(pairs, registry, found, leftovers)
    _take_size(pairs, found, leftovers)
    if any(key.startswith("Hires ") for key in pairs) and "Denoising strength" in pairs:
        leftovers["Denoising strength"] = pairs.pop("Denoising strength")  # it is the second pass's
    for key, value in pairs.items():
        name = _field_of(key)
        if key in _FACT_KEYS:
            facts[_FACT_KEYS[key]] = value[:MAX_SHOWN]
        elif key == "Noise Schedule":  # A1111's word; "Default" leaves it to the file
            if value.casefold() == "zero terminal snr":
                found["zero_terminal_snr"] = True
        elif key == "Mask mode":
            found["invert_mask"] = value.casefold() == "inpaint not masked"
        elif name == "refiner":  # A1111 writes the hash behind the name
            match = re.fullmatch(r"(.*?)(?: \[([0-9a-f]{6,64})\])?", value)
            found["refiner"], digits = match.groups() if match else (value, None)
            facts |= {"refiner_hash": digits} if digits else {}
        elif name == "vae" and value in {"None", "Automatic"}:
            continue
        elif name is None or (converted := _converted(name, value)) is None:
            leftovers[key] = value
        else:
            found[name] = converted
    valid = _valid(found, leftovers)  # what is not becomes a leftover
    shown = {key: value[:MAX_SHOWN] for key, value in leftovers.items()}
    return Parsed(valid, facts, shown, tuple(notes))


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
            yield _titles()[field.name], _text(value)
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


def _scan(line: str) -> Iterator[tuple[str, str]]:
    """The pairs of a line. By hand: the regular expression that A1111 uses takes quadratic time on hostile lines."""
    at, count = 0, 0
    while (colon := line.find(":", at)) >= 0 and count < MAX_PAIRS:
        key = line[max(at, colon - MAX_KEY) : colon].rsplit(",", 1)[-1].strip()
        start = colon + 1
        while start < len(line) and line[start] == " ":
            start += 1
        value, at = _value_at(line, start)
        if re.fullmatch(r"\w[\w \-/]+", key):
            count += 1
            yield key, value


def _value_at(line: str, start: int) -> tuple[str, int]:
    """The value that begins at ``start`` and where the next pair may begin."""
    if line.startswith('"', start):
        end = start + 1
        while end < len(line) and line[end] != '"':
            end += 2 if line[end] == "\\" else 1
        after = end + 1
        if end < len(line) and (after >= len(line) or line[after] == ","):
            try:
                value = json.loads(line[start:after])
            except ValueError:
                value = line[start + 1 : end]
            return str(value), after + 1
    comma = line.find(",", start)
    end = len(line) if comma < 0 else comma
    return line[start:end].strip(), end + 1


def _prompts(lines: list[str]) -> tuple[str, str]:
    prompt: list[str] = []
    negative: list[str] | None = None
    for line in lines:
        if negative is None and line.startswith(NEGATIVE):
            negative = [line.removeprefix(NEGATIVE).strip()]
        else:
            (prompt if negative is None else negative).append(line)
    return "\n".join(prompt).strip(), "\n".join(negative or ()).strip()


def _take_sampler(pairs: dict[str, str], registry: Registry, found: dict[str, Any], leftovers: dict[str, str]) -> None:
    label, schedule = pairs.pop("Sampler", None), pairs.pop("Schedule type", None)
    if label is not None:
        name = find_registered(registry, "samplers", label)
        if name is None:  # before 1.9 A1111 wrote both in one: "DPM++ 2M Karras"
            for row in registry["schedules"]:
                if label.casefold().endswith(" " + row["label"].casefold()):
                    name = find_registered(registry, "samplers", label[: -len(row["label"])])
                    schedule = schedule or row["label"]
        if name is None:
            leftovers["Sampler"] = label
        else:
            found["sampler"] = name
            schedule = schedule or "Automatic"  # A1111 leaves that one out
    if schedule is not None:
        alias = _SCHEDULE_ALIASES.get(schedule.casefold(), schedule)
        name = find_registered(registry, "schedules", alias)
        if name is None:
            leftovers["Schedule type"] = schedule
        else:
            found["schedule"] = name


def _take_size(pairs: dict[str, str], found: dict[str, Any], leftovers: dict[str, str]) -> None:
    size = pairs.pop("Size", None)
    if size is None:
        return
    match = re.fullmatch(r"(\d{1,6})x(\d{1,6})", size, re.ASCII)
    if match is None:
        leftovers["Size"] = size
    else:
        found["width"], found["height"] = int(match[1]), int(match[2])


def _field_of(key: str) -> str | None:
    if key in _A1111_KEYS:
        return _A1111_KEYS[key]
    return next((name for name, title in _titles().items() if title == key and name not in _NOT_READ), None)


_NOT_READ = frozenset({"prompt", "negative_prompt", "init_image", "mask", "batch_size", "batch_count", "image_format"})


def _converted(name: str, text: str) -> Any:
    """The value that a text stands for in a field; ``None`` if it stands for none."""
    kind = _kinds()[name]
    if isinstance(kind, tuple):
        return next((choice for choice in kind if choice.casefold() == text.casefold()), None)
    if kind == "boolean":
        return {"true": True, "false": False}.get(text.casefold())
    try:
        if kind == "integer":
            return int(text) if len(text) <= 20 else None
        if kind == "object":
            return json.loads(text)
        return float(text) if kind == "number" else text
    except (ValueError, RecursionError):
        return None


def _valid(found: dict[str, Any], leftovers: dict[str, str]) -> dict[str, Any]:
    """The fields that a request takes; the others become leftovers."""
    good: dict[str, Any] = {}
    for name, value in found.items():
        try:
            parse_request({**good, name: value})
        except BadRequest:
            leftovers[_titles()[name]] = str(value)
        else:
            good[name] = value
    return good


@cache
def _titles() -> Mapping[str, str]:
    return {name: str(node.get("title", name)) for name, node in request_schema()["properties"].items()}


@cache
def _kinds() -> Mapping[str, str | tuple[str, ...]]:
    """JSON type of each field, or its choices."""
    kinds: dict[str, str | tuple[str, ...]] = {}
    for name, node in request_schema()["properties"].items():
        choices = [choice for choice in node.get("anyOf", [node]) if choice.get("type") != "null"]
        kinds[name] = tuple(choices[0]["enum"]) if "enum" in choices[0] else choices[0]["type"]
    return kinds
