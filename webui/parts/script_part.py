"""A place in the page that our own script fills (webui/assets): gradio gives the element, ``easel.mount`` the rest."""

from __future__ import annotations

import json

import gradio as gr


def script_part(kind: str, elem_id: str, *, classes: tuple[str, ...] = (), **options: str | list[str]) -> gr.HTML:
    """An empty element that ``easel.parts[kind](element, options)`` builds when it appears.

    No data is ever put into the template: what comes from files or users reaches the page as JSON and is shown as text.
    """
    call = f"easel.mount({json.dumps(kind)}, element, {json.dumps(options)}, trigger);"
    return gr.HTML(
        "",
        elem_id=elem_id,
        elem_classes=["part", *classes],
        js_on_load=call,
        apply_default_css=False,
    )
