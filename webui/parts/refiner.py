"""The second checkpoint of a job: which, from where on, and what SDXL's refiner is told of the picture's looks."""

from __future__ import annotations

from collections.abc import Callable

import gradio as gr

from webui.form import FAMILIES_OF, Choices, Control


def refiner_part(tab: str, add: Callable[..., Control], refiners: Choices) -> None:
    """Draw the accordion; ``add`` makes the component of a field."""
    with gr.Accordion("Refiner", open=False, elem_id=f"{tab}_refiner_part"):
        with gr.Row(elem_classes=["pair"]):
            add("refiner", choices=refiners, elem_id=f"{tab}_refiner", min_width=150, scale=2)
            add("refiner_switch", min_width=130, scale=1)
        scored = [f"only-{family}" for family in FAMILIES_OF["aesthetic_score"]]
        with gr.Row(elem_classes=["pair", *scored]):
            add("aesthetic_score", min_width=130)
            add("negative_aesthetic_score", min_width=130)
