"""What the three generating tabs have in common; a tab adds its own controls through ``source``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import gradio as gr

from webui.form import Control
from webui.parts import choices
from webui.parts.prompt import PromptPart, prompt_part
from webui.parts.sampling import sampling_part
from webui.parts.script_part import script_part

if TYPE_CHECKING:
    from webui.studio import Studio


@dataclass(frozen=True)
class GenerationTab:
    """A tab that makes pictures: its name, request fields, buttons, and few-step presets."""

    name: str
    fields: dict[str, Control]
    prompt: PromptPart
    presets: gr.Dropdown


def generation_tab(
    name: str, studio: Studio, checkpoint: str, source: Callable[[], dict[str, Control]] = dict
) -> GenerationTab:
    """Prompt on top, controls left, results right (on a phone: results, then controls)."""
    own: dict[str, Control] = {}
    with gr.Tab(name, id=name, elem_id=f"tab_{name}"):
        prompt = prompt_part(name)
        with gr.Row(elem_classes=["work"]):
            with gr.Column(scale=5, min_width=300, elem_classes=["controls"], elem_id=f"{name}_settings"):
                fields, presets = sampling_part(
                    name,
                    wanted=choices.wanted_by(studio, checkpoint),
                    samplers=choices.samplers(studio),
                    schedules=choices.schedules(studio),
                    files=choices.encoder_files(studio),
                    refiners=choices.refiners(studio),
                    source=lambda: own.update(source()),
                )
            with gr.Column(scale=6, min_width=300, elem_classes=["results-column"], elem_id=f"{name}_results"):
                script_part("results", f"{name}_results_slot", tab=name)
    return GenerationTab(name, {**prompt.fields, **own, **fields}, prompt, presets)
