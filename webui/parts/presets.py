"""Few-step presets: one small list that fills sampler, schedule, steps and CFG, and forgets what was picked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr

from backend.formats.presets import PRESETS
from webui.form import Choices, Control

_FILLED = ("steps", "cfg_scale", "sampler", "schedule", "shift")


def presets_list(tab: str) -> gr.Dropdown:
    """Draw the list; ``wire_presets`` makes it work once the fields are there, and the bridge says what it offers."""
    return gr.Dropdown(
        list(preset_choices("")), value="", label="Few-step preset", elem_id=f"{tab}_preset", min_width=130
    )


def preset_choices(family: str) -> Choices:
    """What is offered for checkpoints of a family."""
    return [("Choose", ""), *((preset.label, preset.name) for preset in PRESETS if family in preset.families)]


def wire_presets(presets: gr.Dropdown, fields: Mapping[str, Control]) -> None:
    """Picking a preset fills the fields that it sets and leaves the others; no server is asked."""
    filled = [fields[name] for name in _FILLED]
    presets.input(
        None,
        [presets, *filled],
        [presets, *filled],
        js="(name, ...now) => ['', ...(easel.presets[name] || now).map((value, i) => value ?? now[i])]",
    )


def presets_json() -> Mapping[str, Sequence[Any]]:
    """Name -> what each preset fills in, null where it leaves a field."""
    return {preset.name: [preset.fields().get(name) for name in _FILLED] for preset in PRESETS}
