"""Few-step presets: small lists that fill sampler, schedule, steps and CFG, and forget what was picked.

One list for each set of families; the page shows that of the chosen checkpoint's (page.css).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import groupby

import gradio as gr

from backend.formats.presets import PRESETS, Preset
from webui.form import Control

_FILLED = ("steps", "cfg_scale", "sampler", "schedule", "shift")
_EVERY = sorted(PRESETS, key=lambda preset: preset.families)  # stable: the table's order within a set of families


def preset_lists(tab: str) -> list[gr.Dropdown]:
    """Draw the lists; ``wire_presets`` makes them work once the fields are there."""
    return [_list(tab, families, list(presets)) for families, presets in groupby(_EVERY, lambda each: each.families)]


def _list(tab: str, families: Sequence[str], presets: Sequence[Preset]) -> gr.Dropdown:
    return gr.Dropdown(
        [("Choose", ""), *((preset.label, preset.name) for preset in presets)],
        value="",
        label="Few-step preset",
        elem_id=f"{tab}_preset_{families[-1]}",
        elem_classes=["preset", *(f"only-{family}" for family in families)],
        min_width=130,
    )


def wire_presets(lists: Sequence[gr.Dropdown], fields: Mapping[str, Control]) -> None:
    """Picking a preset fills the fields that it sets and leaves the others; no server is asked."""
    table = {preset.name: [preset.fields().get(name) for name in _FILLED] for preset in PRESETS}
    filled = [fields[name] for name in _FILLED]
    for presets in lists:
        presets.input(
            None,
            [presets, *filled],
            [presets, *filled],
            js=f"(name, ...now) => ['', ...(({json.dumps(table)})[name] || now).map((value, i) => value ?? now[i])]",
        )
