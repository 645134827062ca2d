"""Few-step presets: one small list that fills sampler, schedule, steps and CFG, and forgets what was picked."""

from __future__ import annotations

import json
from collections.abc import Mapping

import gradio as gr

from backend.formats.presets import PRESETS
from webui.form import Control

_FILLED = ("steps", "cfg_scale", "sampler", "schedule", "shift")


def presets_list(tab: str) -> gr.Dropdown:
    """Draw the list; ``wire_presets`` makes it work once the fields are there."""
    choices = [("Choose ...", ""), *((preset.label, preset.name) for preset in PRESETS)]
    return gr.Dropdown(
        choices, value="", label="Few-step preset", elem_id=f"{tab}_preset", elem_classes=["preset"], min_width=130
    )


def wire_presets(presets: gr.Dropdown, fields: Mapping[str, Control]) -> None:
    """Picking a preset fills the fields that it sets and leaves the others; no server is asked."""
    table = {preset.name: [preset.fields().get(name) for name in _FILLED] for preset in PRESETS}
    filled = [fields[name] for name in _FILLED]
    presets.input(
        None,
        [presets, *filled],
        [presets, *filled],
        js=f"(name, ...now) => ['', ...(({json.dumps(table)})[name] || now).map((value, i) => value ?? now[i])]",
    )
