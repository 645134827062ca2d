"""Small icon buttons: the name is text (for screen readers and tests), the picture is CSS."""

from __future__ import annotations

from typing import Literal

import gradio as gr


def tool_button(
    name: str,
    icon: str,
    elem_id: str,
    *,
    variant: Literal["primary", "secondary", "stop"] = "secondary",
    classes: tuple[str, ...] = (),
) -> gr.Button:
    """A square button that shows ``icon`` (a class in icons.css) and is called ``name``."""
    return gr.Button(
        name,
        elem_id=elem_id,
        elem_classes=["tool", f"icon-{icon}", *classes],
        variant=variant,
        size="sm",
        min_width=36,
        scale=0,
    )
