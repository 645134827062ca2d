"""Control modes against the numbers of sd-webui-controlnet."""

from __future__ import annotations

import pytest

from extensions.controlnet.strength import leaves_out_uncond, strength_of


def of(mode, count: int, *, is_adapter: bool = False) -> list[float]:
    strength = strength_of(0.8, mode, is_adapter=is_adapter)
    return [strength(number, count) for number in range(count)]


def test_balanced_is_the_weight_everywhere():
    assert of("balanced", 10) == [0.8] * 10


@pytest.mark.parametrize("mode", ["prompt is more important", "control is more important"])
def test_early_blocks_count_less_in_the_other_modes(mode):
    assert of(mode, 13) == pytest.approx([0.8 * 0.825 ** float(12 - i) for i in range(13)])
    assert of(mode, 4, is_adapter=True) == pytest.approx([0.8 * x for x in (0.25, 0.62, 0.825, 1.0)])
    assert of(mode, 19)[-1] == 0.8


def test_only_one_mode_leaves_the_negative_prompt_alone():
    assert leaves_out_uncond("control is more important")
    assert not leaves_out_uncond("balanced")
    assert not leaves_out_uncond("prompt is more important")
