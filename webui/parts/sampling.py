"""The controls that every tab has: sampler, size, batches, CFG, seed, and what is rarely needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import gradio as gr

from webui.form import FAMILIES_OF, Choices, Control, component
from webui.parts.buttons import tool_button
from webui.parts.field_groups import field_groups_part
from webui.parts.presets import presets_list, wire_presets
from webui.parts.refiner import refiner_part
from webui.parts.script_part import script_part


def sampling_part(
    tab: str,
    *,
    wanted: Mapping[str, Any],
    samplers: Choices,
    schedules: Choices,
    files: Mapping[str, Choices],
    refiners: Choices,
    source: Callable[[], None],
) -> tuple[dict[str, Control], gr.Dropdown]:
    """Draw the left column and wire the buttons that need no server (swap, dice, recycle).

    Args:
        wanted: the checkpoint's wishes, shown at first.
        files: choices of the fields that name a text encoder's file; those without a choice are not shown.
        source: called where the tab's own controls belong (img2img, inpaint); draws them.
    Returns:
        request field -> component; and the list of few-step presets.
    """
    fields: dict[str, Control] = {}

    def add(field: str, **options: Any) -> Control:
        fields[field] = component(field, tab=tab, value=wanted.get(field), **options)
        return fields[field]

    source()
    with gr.Row(elem_classes=["pair"]):
        add("sampler", choices=samplers, elem_id=f"{tab}_sampling", min_width=130)
        add("schedule", choices=schedules, elem_id=f"{tab}_scheduler", min_width=130)
    script_part("sampler_panel", f"{tab}_sampler_panel", tab=tab)
    with gr.Row(elem_classes=["pair"]):
        add("steps", min_width=180, scale=2)
        presets = presets_list(tab)
    with gr.Row(elem_classes=["size-row"]):
        with gr.Column(min_width=200, scale=8, elem_classes=["tight"]):
            width = add("width")
            height = add("height")
        swap = tool_button("Swap width and height", "swap", f"{tab}_res_switch_btn")
    swap.click(None, [width, height], [width, height], js="(width, height) => [height, width]")
    with gr.Row(elem_classes=["pair"]):
        add("batch_count", min_width=130)
        add("batch_size", min_width=130)
    add("cfg_scale")
    add("shift")
    _seed(tab, add)
    refiner_part(tab, add, refiners)
    _advanced(tab, add, files)
    field_groups_part(tab, add)
    add("extensions")
    script_part("panels", f"{tab}_panels", tab=tab)
    wire_presets(presets, fields)
    return fields, presets


def _seed(tab: str, add: Callable[..., Control]) -> None:
    with gr.Row(elem_classes=["seed-row"]):
        seed = add("seed", min_width=140, scale=4)
        dice = tool_button("Random seed", "dice", f"{tab}_random_seed")
        recycle = tool_button("Reuse the seed of the picture shown", "recycle", f"{tab}_reuse_seed")
    dice.click(None, None, seed, js="() => -1")
    recycle.click(None, seed, seed, js="(seed) => easel.shownSeed(seed)")
    with gr.Accordion("Extra: variation seed", open=False, elem_id=f"{tab}_extra"), gr.Row(elem_classes=["pair"]):
        add("variation_seed", min_width=130)
        add("variation_strength", min_width=130)


def _advanced(tab: str, add: Callable[..., Control], files: Mapping[str, Choices]) -> None:
    with gr.Accordion("Advanced", open=False, elem_classes=["advanced"]):
        add("cfg_rescale")
        with gr.Row(elem_classes=["pair"]):
            add("guidance_start", min_width=130)
            add("guidance_end", min_width=130)
        with gr.Row(elem_classes=["pair"]):
            add("clip_skip", min_width=110)
            add("emphasis", min_width=110)
            add("image_format", min_width=110)
        with gr.Row(elem_classes=["pair", *(f"only-{family}" for family in FAMILIES_OF["prediction"])]):
            add("prediction", min_width=130)
            add("zero_terminal_snr", min_width=130)
        unets = tuple(f"only-{family}" for family in FAMILIES_OF["prediction"])
        script_part("prediction_speaker", f"{tab}_prediction_speaker", classes=unets)
        with gr.Row(elem_classes=["pair", "only-sd3"]):
            add("emphasis_t5", min_width=110)
            add("t5_full_length", min_width=110)
            add("t5_zeros", min_width=110)
        with gr.Group(elem_classes=["only-sdxl", "only-sdxl_refiner"]):
            for first, second in (("original", "target"), ("crop", None)):
                with gr.Row(elem_classes=["four"]):
                    names = [f"{first}_width", f"{first}_height"] if second else ["crop_left", "crop_top"]
                    for name in [*names, *([f"{second}_width", f"{second}_height"] if second else [])]:
                        add(name, min_width=80)
        for name, choices in files.items():
            add(name, choices=choices, visible=len(choices) > 1)
        for name in ("prompt_clip_l", "prompt_clip_g", "prompt_t5"):
            add(name, lines=1, max_lines=6, placeholder="empty: the prompt above")
