"""Skip-layer guidance of SD3.5: its four fields, and one click for what Stability published with SD3.5 Medium."""

from __future__ import annotations

import json
from collections.abc import Callable

import gradio as gr

from backend.formats.constants import SD35_MEDIUM_SKIP_LAYERS
from webui.form import Control


def skip_layers_part(tab: str, add: Callable[..., Control]) -> None:
    """Draw the accordion; ``add`` makes the component of a field."""
    with gr.Accordion("Skip-layer guidance", open=False, elem_classes=["only-sd3"], elem_id=f"{tab}_skip_layer"):
        scale = add("skip_layer_scale")
        layers = add("skip_layers", max_lines=1)
        start = add("skip_layer_start")
        end = add("skip_layer_end")
        published = gr.Button("As published for SD3.5 Medium", size="sm", elem_id=f"{tab}_skip_layer_published")
    shown = {"skip_layer_scale": scale, "skip_layers": layers, "skip_layer_start": start, "skip_layer_end": end}
    values = [SD35_MEDIUM_SKIP_LAYERS[name] for name in shown]
    published.click(None, None, list(shown.values()), js=f"() => {json.dumps(values)}")
