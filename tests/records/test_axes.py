"""A tag's strength as an axis: what else the tag says stays."""

from __future__ import annotations

import pytest

from backend.records.axes import Axis, with_value
from backend.request import GenerationRequest


@pytest.mark.parametrize(("prompt", "told"), [
    ("a fox", "a fox <lora:ink:0.5>"),
    ("a <lora:ink> fox <LoRA:Ink:1>", "a <lora:ink:0.5> fox <lora:ink:0.5>"),
    ("<lora:ink:1:start=0.2:region=left> <lora:inky:1>", "<lora:ink:0.5:start=0.2:region=left> <lora:inky:1>"),
    ("<lora:ink:te=0.3:unet=1:end=0.5>", "<lora:ink:0.5:end=0.5>"),
])  # fmt: skip
def test_a_tag_at_another_strength_keeps_its_steps_and_region(prompt: str, told: str) -> None:
    axis = Axis("<lora:ink>", "lora ink", (0.5,), ("0.5",), 0)
    assert with_value(GenerationRequest(prompt=prompt), axis, 0.5).prompt == told
