"""PNG info: what a picture says about how it was made, and a way to send that to a tab."""

from __future__ import annotations

import gradio as gr

from webui.parts.script_part import script_part


def build() -> None:
    """The tab; the script posts the file to /api/v1/read and shows what comes back as text."""
    with gr.Tab("PNG info", id="png_info", elem_id="tab_png_info"):
        script_part("read_picture", "png_info_part")
