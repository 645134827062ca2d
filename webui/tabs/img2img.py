"""img2img: a picture from a picture and words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from webui.form import Control, component
from webui.parts.script_part import script_part
from webui.tabs.generation import GenerationTab, generation_tab

if TYPE_CHECKING:
    from webui.studio import Studio


def build(studio: Studio, checkpoint: str) -> GenerationTab:
    """The tab with its picture box, strength and resize mode."""
    return generation_tab("img2img", studio, checkpoint, lambda: _source("img2img"))


def _source(tab: str) -> dict[str, Control]:
    script_part("picture", f"{tab}_image", classes=("picture-part",), tab=tab)
    denoise = component("denoise", tab=tab, elem_id=f"{tab}_denoising_strength")
    image_cfg_scale = component("image_cfg_scale", tab=tab)
    resize_mode = component("resize_mode", tab=tab)
    exact_steps = component("exact_steps", tab=tab, container=False)
    return {
        "denoise": denoise,
        "image_cfg_scale": image_cfg_scale,
        "resize_mode": resize_mode,
        "exact_steps": exact_steps,
    }
