"""Groups of request fields that the page draws like panels: their hidden boxes, and what the script is told of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from backend.records.field_groups import FIELD_GROUPS
from webui.form import Control, field_schema
from webui.parts.script_part import script_part

CHANGED = "changed"  # the event by which the script says that it has other values


def field_groups_part(tab: str, add: Callable[..., Control]) -> None:
    """Draw the place of groups that no panel has taken in; ``add`` makes the component of a field."""
    part = script_part("field_groups", f"{tab}_field_groups", tab=tab, event=CHANGED)
    for group in FIELD_GROUPS.values():
        boxes = [add(field, visible="hidden") for field in group.fields]
        told = f"() => easel.groupTold({json.dumps(tab)}, {json.dumps(group.name)})"
        getattr(part, CHANGED)(None, None, boxes, js=told, trigger_mode="multiple")


def groups_json() -> list[Mapping[str, Any]]:
    """Every group as a panel of the registry document is told, with its fields' schemas."""
    return [
        {
            "name": group.name,
            "label": group.label,
            "families": group.families,
            "help": group.help,
            "switch": group.switch,
            "on": group.on,
            "presets": [{"label": label, "values": values} for label, values in group.presets.items()],
            "schema": {"properties": {field: field_schema(field) for field in group.fields}},
        }
        for group in FIELD_GROUPS.values()
    ]
