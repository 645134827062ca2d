"""Axes by themselves: a tag's strength keeps what else the tag says, and what cannot vary is refused."""

from __future__ import annotations

import pytest

from backend.errors import BadRequest
from backend.records.axes import Axis, read_axis, with_value
from backend.records.registry import core_registry
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


def test_a_range_of_no_values_is_refused() -> None:
    with pytest.raises(BadRequest, match=r"1-10 \[0\]' has no values"):
        read_axis("steps: 1-10 [0]", core_registry())


def test_an_unknown_axis_lists_the_names_beside_it_alone() -> None:
    panels = [{"name": name, "label": name, "schema": {"properties": {"scale": {}}}} for name in ("pag", "seg")]
    registry = {**core_registry(), "panels": panels}
    with pytest.raises(BadRequest, match=r"Did you mean 'pag.scale'\? Known: pag.scale\.") as in_panel:
        read_axis("pag.scal: 1", registry)
    assert "seg.scale" not in in_panel.value.what
    with pytest.raises(BadRequest, match="cfg_scale") as field:
        read_axis("stepp: 1", registry)
    assert "pag.scale" not in field.value.what
    with pytest.raises(BadRequest, match="batch_size cannot vary within a sweep"):
        read_axis("batch_size: 1, 2", registry)
