"""extensions: what is installed, what it does and costs, and whether it may run."""

from __future__ import annotations

import gradio as gr

from webui.parts.script_part import script_part


def build() -> None:
    """The tab; the script shows GET /api/v1/extensions as text."""
    with gr.Tab("Extensions", id="extensions", elem_id="tab_extensions"):
        script_part("extensions", "extensions_part")
