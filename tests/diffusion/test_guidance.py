"""Which branches a step evaluates, and how their outputs become one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from backend.diffusion.guidance import Guidance, SkipLayers, Way, combine, guide

STEPS = 20


def out(value: int) -> Tensor:
    return torch.randn(2, 4, 5, 5, generator=torch.Generator().manual_seed(value))


def names(guidance: Guidance, step: int, weights: tuple[float, ...] = (1.0,)) -> list[str]:
    return [way.name for way in guidance.ways(weights, step, STEPS)]


@pytest.mark.parametrize(
    ("guidance", "expected"),
    [
        (Guidance(), ["cond"]),
        (Guidance(5), ["cond", "uncond"]),
        (Guidance(5, start=0.5), ["cond"]),
        (Guidance(5, image_scale=1.5), ["cond", "uncond", "blind"]),
        (Guidance(1, image_scale=1.5), ["cond", "uncond", "blind"]),
        (Guidance(5, image_scale=1.0), ["cond", "uncond"]),
        (Guidance(5, image_scale=1.5, start=0.5), ["cond"]),
        (Guidance(1, skip=SkipLayers(frozenset({1}), 2.5)), ["cond", "skipped"]),
        (Guidance(5, skip=SkipLayers(frozenset({1}), 2.5)), ["cond", "uncond", "skipped"]),
        (Guidance(5, skip=SkipLayers(frozenset({1}), 0.0)), ["cond", "uncond"]),
        (Guidance(5, skip=SkipLayers(frozenset(), 2.5)), ["cond", "uncond"]),
    ],
)
def test_a_step_evaluates_no_branch_without_a_share(guidance: Guidance, expected: list[str]) -> None:
    assert names(guidance, 1) == expected


def test_skip_layers_act_strictly_inside_their_window_as_in_the_reference() -> None:
    skip = SkipLayers(frozenset({1}), 2.5, 0.0, 0.2)
    assert [step for step in range(STEPS) if skip.acts_at(step, STEPS)] == [1, 2, 3]
    assert [step for step in range(40) if SkipLayers(frozenset({1}), 1, 0.1, 0.2).acts_at(step, 40)] == [5, 6, 7]
    assert SkipLayers(frozenset({7, 8}), 1).way == Way("skipped", skip_blocks=frozenset({7, 8}))


@pytest.mark.parametrize(("weights", "scale"), [((1.0,), 5.0), ((1.0,), 1.0), ((1.0, -0.4), 3.0), ((0.5, 0.5), 7.5)])
def test_without_an_extra_branch_the_result_is_combines_to_the_bit(weights: tuple[float, ...], scale: float) -> None:
    conds = [out(number) for number in range(len(weights))]
    outputs = {"cond": conds, "uncond": [out(9)]}
    assert torch.equal(guide(outputs, weights, Guidance(scale), 3, STEPS), combine(conds, weights, out(9), scale))


@pytest.mark.parametrize(("scale", "image_scale"), [(7.0, 1.5), (1.0, 2.0), (4.0, 0.5)])
def test_a_picture_has_a_weight_of_its_own(scale: float, image_scale: float) -> None:
    """Brooks et al. 2023, equation 3: from nothing to the picture, from the picture to picture and words."""
    text, image, nothing = out(1), out(2), out(3)
    guidance = Guidance(scale, image_scale=image_scale)
    outputs = {"cond": [text], "uncond": [image], "blind": [nothing]}
    expected = nothing + scale * (text - image) + image_scale * (image - nothing)
    torch.testing.assert_close(guide(outputs, [1.0], guidance, 0, STEPS), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("step", [0, 1, 3, 4])
def test_skip_layers_push_away_from_each_prompt_without_them(step: int) -> None:
    guidance = Guidance(3.0, skip=SkipLayers(frozenset({1}), 2.5))
    weights = (1.0, -0.4)
    outputs = {"cond": [out(0), out(1)], "uncond": [out(2)]}
    if "skipped" in names(guidance, step, weights):
        outputs["skipped"] = [out(3), out(4)]
    expected = combine(outputs["cond"], weights, out(2), 3.0)
    if 0 < step < 4:
        expected = expected + 2.5 * ((out(0) - out(3)) - 0.4 * (out(1) - out(4)))
    torch.testing.assert_close(guide(outputs, weights, guidance, step, STEPS), expected, rtol=1e-5, atol=1e-5)
    assert ("skipped" in outputs) == (0 < step < 4)


def test_the_negative_prompt_is_needed_where_any_step_may_use_it() -> None:
    assert not Guidance().needs_negative([1.0])
    assert Guidance(5).needs_negative([1.0])
    assert Guidance(2).needs_negative([1.0, -0.5])  # scale 2 has no use for it, scale 1 has
    assert Guidance(1, image_scale=1.5).needs_negative([1.0])
    assert not Guidance(1, skip=SkipLayers(frozenset({1}), 2.5)).needs_negative([1.0])
