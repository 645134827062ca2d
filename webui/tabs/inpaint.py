"""inpaint: the painted part of a picture is made anew."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gradio as gr

from webui.form import Control, component
from webui.parts.script_part import script_part
from webui.tabs.generation import GenerationTab, generation_tab

if TYPE_CHECKING:
    from webui.studio import Studio

TAB = "inpaint"


def build(studio: Studio, checkpoint: str) -> GenerationTab:
    """The tab with the mask painter and what happens under the mask."""
    return generation_tab(TAB, studio, checkpoint, _source)


def _source() -> dict[str, Control]:
    fields: dict[str, Control] = {}

    def add(field: str, **options: Any) -> None:
        fields[field] = component(field, tab=TAB, **options)

    script_part("painter", f"{TAB}_mask", classes=("picture-part",), tab=TAB)
    add("denoise", elem_id=f"{TAB}_denoising_strength")
    add("image_cfg_scale")
    with gr.Row(elem_classes=["pair"]):
        fields["invert_mask"] = gr.Radio(
            [("Inpaint masked", False), ("Inpaint not masked", True)],
            value=False,
            label="Mask mode",
            elem_id=f"{TAB}_mask_mode",
            min_width=150,
        )
        add("inpaint_area", min_width=150)
    add("masked_content")
    with gr.Row(elem_classes=["pair"]):
        add("mask_blur", min_width=130)
        add("masked_padding", min_width=130)
    add("resize_mode")
    add("exact_steps", container=False)
    return fields
