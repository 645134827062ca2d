"""Axes of a sweep: a parameter by name and the values that it takes, ``steps: 10-30 (+10)``, checked by its schema.

What can vary is derived from the request's fields, the panels of the registry document and the tags in the prompts; no
list of names stands here. Page, web process (before a job is accepted) and engine read an axis with the same code.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from backend.errors import BadRequest, unknown_name
from backend.records.panels import check_values, panels_of
from backend.records.registry import Registry, label_of, registered_name
from backend.records.tags import PROMPTS
from backend.request import GenerationRequest, parse_request, request_schema, request_to_json

MAX_CELLS = 1000
REPLACE = "replace"
_REPLACE_NAMES = frozenset({REPLACE, "prompt s/r", "search and replace", "s/r"})
_FIXED = frozenset({"init_image", "mask", "extensions", "image_format", "batch_size", "batch_count"})
_NAMED = {"sampler": "samplers", "schedule": "schedules"}
#: How dear a change is: what costs a load varies slowest. Everything else costs nothing beside the picture.
_COST = {"checkpoint": 0, **dict.fromkeys(("refiner", "vae", "clip_l_file", "clip_g_file", "t5_file", "use_t5"), 1)}
_TAG_COST, _CHEAP = 2, 3
_STRENGTHS = ("te", "unet")  # of a tag: one strength for both takes their place
_TAG = re.compile(r"<([A-Za-z][A-Za-z0-9_]*):([^<>:]+)>")
_NUMBER = r"-?(?:\d+(?:\.\d*)?|\.\d+)"
_RANGE = re.compile(
    rf"\s*({_NUMBER})\s*-\s*({_NUMBER})\s*(?:\(\s*\+?({_NUMBER})\s*\)|\[\s*(\d{{1,6}})\s*\])?\s*", re.ASCII
)
_YES = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


@dataclass(frozen=True)
class Axis:
    """A parameter and the values that it takes one after another.

    Attributes:
        name: "steps", "pag.scale", "<lora:fox>", "replace".
        label: for people: "Sampling steps".
        values: as the request takes them; of "replace" the texts, the first being the one that is searched for.
        texts: the same for people.
        cost: axes of a lower one vary slowest.
    """

    name: str
    label: str
    values: tuple[Any, ...]
    texts: tuple[str, ...]
    cost: int


def axis_names(registry: Registry) -> dict[str, str]:
    """Everything that can vary, by name, with its label; tags of a prompt are named as they are written."""
    fields = {name: str(node.get("title", name)) for name, node in _fields().items()}
    parts = {
        f"{panel['name']}.{field}": f"{panel['label']}: {node.get('title', field)}"
        for panel in panels_of(registry).values()
        if not any(map(_is_axis, _properties(panel).values()))
        for field, node in _properties(panel).items()
    }
    return {REPLACE: "Search and replace in the prompts", **fields, **parts}


def read_axis(text: str, registry: Registry) -> Axis:
    """What ``name: values`` means. Values are a list with commas (a value that holds one stands in ``"``), or for
    numbers a range: ``1-10``, ``1-10 (+3)``, ``1-10 [4]`` (four of them).

    Raises:
        BadRequest: an unknown name or value with near ones, a value out of bounds, none or more than 1,000 values.
    """
    tag = _TAG.match(text.strip())
    name, _, written = (
        (tag[0], "", text.strip()[tag.end() :].lstrip().removeprefix(":")) if tag else text.partition(":")
    )
    name = name.strip()
    values = list(_listed(written, name))
    if not values:
        raise BadRequest(
            f"The axis {name[:60]!r} has no values.", "Write NAME: VALUES, as in steps: 10, 20, 30.", field="extensions"
        )
    if tag:
        numbers = _each(values, {"type": "number"}, name, lambda value: value)
        return Axis(name, name, numbers, tuple(map(_text, numbers)), _TAG_COST)
    if name.casefold() in _REPLACE_NAMES:
        texts = tuple(values)
        return Axis(REPLACE, "Search and replace", texts, texts, _TAG_COST)
    name = _known_name(name, registry)
    panel, _, field = name.rpartition(".")
    if panel:
        return _panel_axis(panels_of(registry)[panel], field, values, registry)
    node = _fields()[name]
    found = _each(values, node, name, lambda value: _checked(name, value, registry))
    kind: Any = _NAMED.get(name)
    texts = tuple(label_of(registry, kind, str(value)) if kind else _text(value) for value in found)
    return Axis(name, str(node.get("title", name)), found, texts, _COST.get(name, _CHEAP))


def with_value(request: GenerationRequest, axis: Axis, value: Any) -> GenerationRequest:
    """The request with another value of the axis.

    Raises:
        BadRequest: fields would contradict each other, or the text to be replaced is in no prompt.
    """
    if axis.name == REPLACE:
        return _replaced(request, str(axis.values[0]), str(value))
    if axis.name.startswith("<"):
        return _with_strength(request, axis.name, value)
    panel, _, field = axis.name.rpartition(".")
    told = request_to_json(request)
    if panel:
        stored = told["extensions"].get(panel, {})
        changed = {**stored, "values": {**stored.get("values", {}), field: value}}
        told["extensions"] = {**told["extensions"], panel: changed}
    else:
        told[axis.name] = value
    return parse_request(told)


def cells_of(request: GenerationRequest, axes: Sequence[Axis]) -> list[tuple[tuple[int, ...], GenerationRequest]]:
    """Every combination as the places of its values and its request, in an order that changes models least often.

    Raises:
        BadRequest: as ``with_value``; more than 1,000 combinations; an axis that stands there twice.
    """
    names = [axis.name for axis in axes]
    twice = next((name for name in names if names.count(name) > 1 and name != REPLACE), None)
    if twice is not None:
        raise BadRequest(f"Two axes are {twice}.", "Take another parameter for one of them.", field="extensions")
    count = math.prod(len(axis.values) for axis in axes)
    if count > MAX_CELLS:
        raise BadRequest(
            f"The sweep has {count:,} combinations; {MAX_CELLS:,} is the most.",
            "Take fewer values.",
            field="extensions",
        )
    slowest = sorted(range(len(axes)), key=lambda number: axes[number].cost)
    acting = sorted(range(len(axes)), key=lambda number: axes[number].name not in PROMPTS)  # a text, then its words
    found: list[tuple[tuple[int, ...], GenerationRequest]] = []
    for chosen in product(*(range(len(axes[number].values)) for number in slowest)):
        places = dict(zip(slowest, chosen, strict=True))
        cell = request
        for number in acting:
            cell = with_value(cell, axes[number], axes[number].values[places[number]])
        found.append((tuple(places[number] for number in range(len(axes))), cell))
    return found


def swept(request: GenerationRequest, registry: Registry) -> list[GenerationRequest]:
    """The requests that the axes in a request's panels stand for; none if it has no axis.

    Raises:
        BadRequest: as ``read_axis`` and ``cells_of``.
    """
    found: list[GenerationRequest] = []
    for name, panel in panels_of(registry).items():
        properties = _properties(panel)
        values = request.extensions.get(name, {}).get("values", {})
        texts = [values.get(field, "") for field, node in properties.items() if _is_axis(node)]
        axes = [read_axis(text, registry) for text in texts if isinstance(text, str) and text.strip()]
        found += [cell for _, cell in cells_of(request, axes)] if axes else []
    return found


def _is_axis(node: Mapping[str, Any]) -> bool:
    return node.get("kind") == "axis"


def _properties(panel: Mapping[str, Any]) -> Mapping[str, Any]:
    return panel["schema"].get("properties", {})


def _fields() -> dict[str, Mapping[str, Any]]:
    return {name: _folded(node) for name, node in request_schema()["properties"].items() if name not in _FIXED}


def _folded(node: Mapping[str, Any]) -> Mapping[str, Any]:
    """A schema without its ``null`` alternative."""
    return {**node, **next((each for each in node.get("anyOf", ()) if each.get("type") != "null"), {})}


def _known_name(name: str, registry: Registry) -> str:
    known = axis_names(registry)
    if name in known:
        return name
    by_label = {label.casefold(): each for each, label in known.items()}
    found = by_label.get(name.casefold()) or {each.casefold(): each for each in known}.get(name.casefold())
    if found is None:
        if name.casefold() in _FIXED:
            raise BadRequest(
                f"{name} cannot vary within a sweep.", "Set it in the form, for all of it.", field="extensions"
            )
        of_panel = [each for each in known if each.startswith(f"{name.rpartition('.')[0]}.")]
        said = unknown_name("Axis", name, known, of_panel or [each for each in known if "." not in each])
        raise BadRequest(said, "Others are <lora:NAME> and PANEL.FIELD, as in pag.scale.", field="extensions")
    return found


def _panel_axis(panel: Mapping[str, Any], field: str, values: Sequence[str], registry: Registry) -> Axis:
    node = _folded(panel["schema"]["properties"][field])
    name = f"{panel['name']}.{field}"

    def check(value: Any) -> Any:
        check_values(panel, {field: value}, registry)
        return value

    found = _each(values, node, name, check)
    return Axis(name, f"{panel['label']}: {node.get('title', field)}", found, tuple(map(_text, found)), _CHEAP)


def _listed(written: str, name: str) -> Iterator[str]:
    try:
        rows = list(csv.reader(written.splitlines(), skipinitialspace=True, strict=True))
    except csv.Error:
        hint = 'A value with a comma stands between two ", and a " within it is written twice.'
        raise BadRequest(f"The values of {name[:60]} cannot be read.", hint, field="extensions") from None
    for row in rows:
        yield from (value.strip() for value in row if value.strip())


def _each(values: Sequence[str], node: Mapping[str, Any], name: str, check: Callable[[Any], Any]) -> tuple[Any, ...]:
    found: list[Any] = []
    for text in values:
        for value in _converted(text, node, name):
            found.append(check(value))
            if len(found) > MAX_CELLS:
                raise BadRequest(f"{name} takes more than {MAX_CELLS:,} values.", "Take fewer.", field="extensions")
    return tuple(found)


def _converted(text: str, node: Mapping[str, Any], name: str) -> Iterator[Any]:
    kind = node.get("type")
    if "enum" in node:
        known = {str(each).casefold(): each for each in node["enum"]}
        if text.casefold() not in known:
            raise BadRequest(unknown_name(f"{name}: value", text, map(str, node["enum"])), field="extensions")
        yield known[text.casefold()]
    elif kind == "boolean":
        if text.casefold() not in _YES:
            raise BadRequest(f"{name}: {text[:40]!r} is neither true nor false.", field="extensions")
        yield _YES[text.casefold()]
    elif kind in ("integer", "number"):
        yield from _numbers(text, whole=kind == "integer", name=name)
    else:
        yield text


def _numbers(text: str, *, whole: bool, name: str) -> Iterator[float]:
    """A number, or the numbers of a range."""
    match = _RANGE.fullmatch(text)
    if match is None:
        if not re.fullmatch(_NUMBER, text, re.ASCII) or (whole and "." in text):
            what = "whole number" if whole else "number"
            hint = "Write 10, 1-10, 1-10 (+3) or 1-10 [4]."
            raise BadRequest(f"{name}: {text[:40]!r} is no {what}.", hint, field="extensions")
        yield int(text) if whole else float(text)
        return
    first, last = float(match[1]), float(match[2])
    step = float(match[3]) if match[3] else math.copysign(1.0, last - first)
    if match[4]:
        count = int(match[4])
        if count == 0:
            raise BadRequest(f"{name}: {text[:40]!r} has no values.", "Ask for one or more.", field="extensions")
        step = (last - first) / max(1, count - 1)
    elif step == 0 or (last - first) * step < 0:
        raise BadRequest(
            f"{name}: {text[:40]!r} never gets to its end.", "Turn the sign of its step.", field="extensions"
        )
    else:
        count = int((last - first) / step + 1e-6) + 1
    for number in range(min(count, MAX_CELLS + 1)):
        value = round(first + number * step, 6)
        yield round(value) if whole else value


def _checked(name: str, value: Any, registry: Registry) -> Any:
    kind: Any = _NAMED.get(name)
    value = registered_name(registry, kind, value) if kind else value
    return getattr(parse_request({name: value}), name)


def _replaced(request: GenerationRequest, search: str, text: str) -> GenerationRequest:
    prompts = {field: getattr(request, field) for field in PROMPTS}
    changed = {field: prompt.replace(search, text) for field, prompt in prompts.items() if prompt and search in prompt}
    if not changed:
        hint = "The first value of replace is what is searched for."
        raise BadRequest(f"{search[:60]!r} is in no prompt.", hint, field="extensions")
    return parse_request({**request_to_json(request), **changed})


def _with_strength(request: GenerationRequest, tag: str, value: float) -> GenerationRequest:
    """Every tag of this name at another strength, whatever else it says; a prompt that has none gets it at its end."""
    wanted = f"{tag[:-1]}:{_text(value)}"
    pattern = re.compile(re.escape(tag[:-1]) + r"(?::([^<>]*))?>", re.IGNORECASE)

    def at_strength(match: re.Match[str]) -> str:
        named = [part for part in (match[1] or "").split(":") if "=" in part]
        kept = [part for part in named if part.partition("=")[0].strip().lower() not in _STRENGTHS]
        return ":".join([wanted, *kept]) + ">"

    prompts = {field: getattr(request, field) for field in PROMPTS}
    changed = {field: pattern.sub(at_strength, text) for field, text in prompts.items()
               if text and pattern.search(text)}  # fmt: skip
    changed = changed or {"prompt": f"{request.prompt} {wanted}>".strip()}
    return parse_request({**request_to_json(request), **changed})


def _text(value: Any) -> str:
    return f"{value:.10g}" if isinstance(value, float) else str(value)
