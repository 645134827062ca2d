"""The top of a tab: prompt, negative prompt, Generate and what belongs to them."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

from webui.form import Control, component
from webui.parts.buttons import tool_button


@dataclass(frozen=True)
class PromptPart:
    """The prompt's fields and the buttons beside them."""

    fields: dict[str, Control]
    generate: gr.Button
    interrupt: gr.Button
    paste: gr.Button
    clear: gr.Button


def prompt_part(tab: str) -> PromptPart:
    """Draw the row; nothing is wired yet."""
    with gr.Row(elem_classes=["prompt-row"]):
        with gr.Column(scale=6, min_width=280, elem_classes=["prompts"]):
            prompt = component(
                "prompt",
                tab=tab,
                lines=3,
                max_lines=12,
                elem_classes=["prompt-box"],
                placeholder="What the picture shows (Ctrl+Enter generates, Esc interrupts)",
            )
            negative = component(
                "negative_prompt",
                tab=tab,
                lines=2,
                max_lines=8,
                elem_id=f"{tab}_neg_prompt",
                elem_classes=["prompt-box"],
                placeholder="What it should not show",
            )
        with gr.Column(scale=1, min_width=190, elem_classes=["actions"]):
            generate = gr.Button("Generate", variant="primary", elem_id=f"{tab}_generate", elem_classes=["generate"])
            with gr.Row(elem_classes=["tools"]):
                interrupt = gr.Button(
                    "Interrupt", variant="stop", size="sm", elem_id=f"{tab}_interrupt", elem_classes=["interrupt"]
                )
                paste = tool_button("Fill the form from the parameters in the prompt", "paste", f"{tab}_paste")
                clear = tool_button("Clear the prompts", "clear", f"{tab}_clear_prompt")
            use_t5 = component("use_t5", tab=tab, elem_classes=["use-t5"], container=False)
    return PromptPart(
        {"prompt": prompt, "negative_prompt": negative, "use_t5": use_t5}, generate, interrupt, paste, clear
    )
