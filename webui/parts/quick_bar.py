"""The bar above the tabs: checkpoint, VAE, and the engine's state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import gradio as gr

from webui.form import Control, component
from webui.parts import choices
from webui.parts.bridge import EVENTS
from webui.parts.buttons import tool_button
from webui.parts.script_part import script_part

if TYPE_CHECKING:
    from webui.studio import Studio


@dataclass(frozen=True)
class QuickBar:
    """Fields that all tabs share, and the bar's buttons."""

    fields: dict[str, Control]
    refresh: gr.Button
    defaults: gr.Button
    bridge: gr.HTML  # events that the script raises: see parts/bridge.py


def quick_bar(studio: Studio) -> QuickBar:
    """Draw the bar; the default checkpoint is chosen."""
    with gr.Row(elem_classes=["quick-bar"]):
        bridge = script_part("header", "easel_header", events=list(EVENTS))
        # What is chosen stands in a hidden box, under A1111's id; our own picker shows it and searches.
        checkpoint = component(
            "checkpoint", value=choices.first_checkpoint(studio), elem_id="sd_model_checkpoint", visible="hidden"
        )
        script_part("checkpoint_picker", "checkpoint_picker")
        vae = component("vae", choices=choices.vaes(studio), elem_id="sd_vae", min_width=120, scale=2)
        defaults = tool_button("Use the checkpoint's defaults", "defaults", "checkpoint_defaults")
        refresh = tool_button("Look for new model files", "refresh", "refresh_checkpoints")
    script_part("open_question", "open_question")
    return QuickBar({"checkpoint": checkpoint, "vae": vae}, refresh, defaults, bridge)
