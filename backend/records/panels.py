"""Extensions' panels as the registry document describes them: a request's values checked before a job is accepted.

What a JSON Schema cannot express is checked in the engine, before the job's first step.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from jsonschema import Draft202012Validator, ValidationError

from backend.errors import BadRequest, ModelUnsupported, NotFound, unknown_name
from backend.records.registry import Registry
from backend.request import GenerationRequest


def _as_it_is(value: Any) -> Any:
    return value


_AS: Mapping[Any, Any] = {"number": float, "integer": int}  # what a field's type makes of a number


def panels_of(registry: Registry) -> Mapping[str, Mapping[str, Any]]:
    """The document's panels by name; an engine without extensions has none."""
    return {panel["name"]: panel for panel in registry.get("panels", ())}


PANEL_MISSING = (
    "Install its extension, approve it or switch it on (easel extension list says what waits), or take its values out "
    "of the request."
)


def check_panels(request: GenerationRequest, family: str, registry: Registry) -> None:
    """Refuse values that a panel does not take; values of an older version are left to the engine, which migrates them.

    Raises:
        BadRequest: a panel that is not here, or a value that it does not take.
        ModelUnsupported: a panel that does not work with the checkpoint's family; it is never ignored.
    """
    panels = panels_of(registry)
    for name, stored in request.extensions.items():
        panel = panels.get(name)
        if panel is None:
            raise BadRequest(unknown_name("Panel", name, panels), PANEL_MISSING, field="extensions")
        if panel["families"] and family not in panel["families"]:
            raise ModelUnsupported(
                f"{panel['label']} does not work with checkpoints of the family {family}.",
                f"It works with {', '.join(panel['families'])}: choose such a checkpoint, or switch it off.",
                field="extensions",
            )
        if stored.get("version", panel["version"]) == panel["version"]:
            check_values(panel, stored.get("values", {}), registry)


def check_values(panel: Mapping[str, Any], values: Mapping[str, Any], registry: Registry) -> None:
    """Refuse values that the panel, a row of the document, does not take. Raises ``BadRequest``."""
    _check(panel["label"], panel["schema"], values)
    _check_registered(panel, values, registry)


def whole_values(request: GenerationRequest, registry: Registry) -> dict[str, Any]:
    """The request's ``extensions`` with every field of each panel, in one order, and numbers as their fields have them.

    So the same picture has the same record whoever asked: a page sends all fields and 1, a command line one and 1.0.
    And a default that a later version changes does not change what an old picture was made with. Values of another
    version stay as they are.
    """
    panels = panels_of(registry)
    found: dict[str, Any] = {}
    for name, stored in sorted(request.extensions.items()):
        panel = panels[name]
        if stored.get("version", panel["version"]) != panel["version"]:
            found[name] = stored
            continue
        given = stored.get("values", {})
        fields = panel["schema"].get("properties", {})
        values = {
            field: _AS.get(schema.get("type"), _as_it_is)(given[field] if field in given else schema["default"])
            for field, schema in fields.items()
            if field in given or "default" in schema
        }
        found[name] = {"version": panel["version"], "values": values}
    return found


def idle_samplers(request: GenerationRequest, registry: Registry) -> list[str]:
    """A note for each panel of a sampler that is not the resolved request's."""
    samplers = registry["samplers"]
    chosen = next((row for row in samplers if row["name"] == request.sampler), {})
    return [
        f"The settings of {row['label']} have no effect: the sampling method is {chosen.get('label', request.sampler)}."
        for row in samplers
        if row.get("panel") in request.extensions and row.get("panel") != chosen.get("panel")
    ]


def action_seconds(registry: Registry, panel: str, name: str) -> float:
    """How long an action of a panel may take; raises ``NotFound`` if there is none of this name."""
    panels = panels_of(registry)
    if panel not in panels:
        raise NotFound(unknown_name("Panel", panel, panels), "Install or switch on its extension.")
    actions = {action["name"]: action for action in panels[panel].get("actions", ())}
    if name not in actions:
        raise NotFound(unknown_name(f"{panels[panel]['label']}: action", name, actions))
    return float(actions[name]["seconds"])


def with_texts(request: GenerationRequest, panels: Mapping[str, Mapping[str, Any]]) -> GenerationRequest:
    """The request with numbers as text where a field holds text: a command line cannot tell 10 from "10"."""
    changed: dict[str, Any] = {}
    for name, stored in request.extensions.items():
        known = panels[name]["schema"].get("properties", {}) if name in panels else {}
        values = {
            field: json.dumps(value)
            if isinstance(value, int | float) and known.get(field, {}).get("type") == "string"
            else value
            for field, value in stored.get("values", {}).items()
        }
        changed[name] = {**stored, "values": values}
    return replace(request, extensions=changed) if changed else request


def references(request: GenerationRequest, registry: Registry) -> Iterator[tuple[str, str, str]]:
    """What the values name beside themselves: ("picture" | "folder", which folder or kind of picture, name)."""
    panels = panels_of(registry)
    for name, stored in request.extensions.items():
        known = panels[name]["schema"].get("properties", {}) if name in panels else {}
        for field, value in stored.get("values", {}).items():
            for kind in ("picture", "folder"):
                if value and isinstance(value, str) and kind in known.get(field, {}):
                    yield kind, known[field][kind], value


def _check(owner: str, schema: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    known = schema.get("properties", {})
    for field in values:
        if field not in known:
            raise BadRequest(unknown_name(f"{owner}: field", field, known), field="extensions")
    error: ValidationError | None = next(Draft202012Validator(schema).iter_errors(_plain(values)), None)
    if error is not None:
        field = str(error.path[0]) if error.path else ""
        label = known.get(field, {}).get("title", field)
        raise BadRequest(
            f"{owner}: {label} ({field}) is {repr(error.instance)[:60]}, which cannot be used.",
            f"Accepted: {_accepted(known.get(field, {}))}.",
            field="extensions",
        )


def _accepted(schema: Mapping[str, Any]) -> str:
    """What a field takes, for people."""
    if "picture" in schema:
        return "the sha256 of a picture that was sent before (easel generate takes @FILE), or nothing"
    if "enum" in schema:
        return ", ".join(map(str, schema["enum"]))
    kind = str(schema.get("type"))
    said = {"integer": "a whole number", "number": "a number", "boolean": "true or false", "string": "text"}.get(
        kind, kind
    )
    if "minimum" in schema:
        said += f" from {schema['minimum']:g}"
    if "maximum" in schema:
        said += f" to {schema['maximum']:g}"
    return said + (f" of at most {schema['maxLength']} characters" if "maxLength" in schema else "")


def _check_registered(panel: Mapping[str, Any], values: Mapping[str, Any], registry: Registry) -> None:
    """Refuse a name that is not in its registry, and options that are not those of what is named."""
    fields = panel["schema"].get("properties", {})
    for field, schema in fields.items():
        if "registry" in schema:
            rows = _rows(schema, registry)
            name = values.get(field, schema["default"])
            if name not in rows:
                said = f"{panel['label']}: {schema['title']} ({field})"
                raise BadRequest(unknown_name(said, str(name), rows), field="extensions")
        named = fields.get(schema.get("options_of"))
        if named is not None and field in values:
            row = _rows(named, registry)[values.get(schema["options_of"], named["default"])]
            given = dict(values[field])
            if row.get("schema") and given.pop("version", row["version"]) == row["version"]:
                _check(f"{panel['label']}: {row['label']}", row["schema"], given)


def _rows(schema: Mapping[str, Any], registry: Registry) -> dict[str, Mapping[str, Any]]:
    return {row["name"]: row for row in registry.get(schema["registry"], ())}


def _plain(value: Any) -> Any:
    """Tuples as lists: a JSON Schema knows no others."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
