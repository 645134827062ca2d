"""A1111's parameters text read back, Easel's own and other programs'. Linear in the length; it never raises.

Source: AUTOMATIC1111 ``modules/infotext_utils.py`` (quoting, and that a last line with fewer than three pairs belongs
to the prompt).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from backend.errors import BadRequest
from backend.records.panel_texts import take_panels
from backend.records.panel_words import Files
from backend.records.parameters_text import FACT_KEYS, NEGATIVE, titles
from backend.records.registry import Registry, find_registered, sampler_and_schedule
from backend.request import parse_request, request_schema

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
    if panels.extensions and titles()["extensions"] not in pairs:  # else they stand there in our own words
        found["extensions"] = panels.extensions
        notes, leftovers = panels.notes[:MAX_NOTES], panels.leftovers
    _take_sampler(pairs, registry, found, leftovers)
    _take_size(pairs, found, leftovers)
    if any(key.startswith("Hires ") for key in pairs) and "Denoising strength" in pairs:
        leftovers["Denoising strength"] = pairs.pop("Denoising strength")  # it is the second pass's
    for key, value in pairs.items():
        name = _field_of(key)
        if key in FACT_KEYS:
            facts[FACT_KEYS[key]] = value[:MAX_SHOWN]
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
        if name is None and (both := sampler_and_schedule(registry, label)):
            name, schedule = both[0], schedule or both[1]
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
    return next((name for name, title in titles().items() if title == key and name not in _NOT_READ), None)


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
            leftovers[titles()[name]] = str(value)
        else:
            good[name] = value
    return good


@cache
def _kinds() -> Mapping[str, str | tuple[str, ...]]:
    """JSON type of each field, or its choices."""
    kinds: dict[str, str | tuple[str, ...]] = {}
    for name, node in request_schema()["properties"].items():
        choices = [choice for choice in node.get("anyOf", [node]) if choice.get("type") != "null"]
        kinds[name] = tuple(choices[0]["enum"]) if "enum" in choices[0] else choices[0]["type"]
    return kinds
