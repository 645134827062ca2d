"""models: what each file in the models folder is, and where it belongs."""

from __future__ import annotations

import gradio as gr

from webui.parts.script_part import script_part


def build() -> None:
    """The tab; the script shows GET /api/v1/models as text."""
    with gr.Tab("Models", id="models", elem_id="tab_models"):
        script_part("models", "models_part")
