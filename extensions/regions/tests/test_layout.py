"""Masks, shares and parts: what a layout, drawn pictures and a prompt mean."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from backend.errors import BadRequest
from extensions.regions.layout import drawn_masks, extents, feathered, read_weights, shares, split_masks
from extensions.regions.prompts import joined, split_prompt, texts_of


@pytest.mark.parametrize(
    ("layout", "count"), [("1", 1), ("1,2,1", 3), ("1;1", 2), ("2: 1,1; 1", 3), ("1: 3 ; 0.5: 1,1,2", 4)]
)
def test_cells_of_a_layout_sum_to_1(layout: str, count: int) -> None:
    masks = split_masks(layout, 7, 9)
    assert masks.shape == (count, 7, 9)
    torch.testing.assert_close(masks.sum(0), torch.ones(7, 9))
    torch.testing.assert_close(feathered(masks, 4).sum(0), torch.ones(7, 9))


def test_ratios_are_widths_and_heights() -> None:
    first, second, third = split_masks("3: 1,2; 1: 1", 4, 6)
    assert first.nonzero().tolist() == [[y, x] for y in range(3) for x in range(2)]
    assert second.nonzero().tolist() == [[y, x] for y in range(3) for x in range(2, 6)]
    assert third.nonzero().tolist() == [[3, x] for x in range(6)]
    torch.testing.assert_close(split_masks("1,1", 1, 3), torch.tensor([[[1, 0.5, 0]], [[0, 0.5, 1.0]]]))


@pytest.mark.parametrize("layout", ["", ";", "a", "1,,1", "0,1", "-1", "x: 1", ",".join("1" * 17), "nan", "inf,1"])
def test_what_is_no_layout_is_refused(layout: str) -> None:
    with pytest.raises(BadRequest, match="layout"):
        split_masks(layout, 4, 4)


@pytest.mark.parametrize("base", [None, 0.0, 0.2, 1.0])
@pytest.mark.parametrize("weights", [[1.0, 1.0], [2.0, 0.0], [0.0, 0.0]])
def test_shares_sum_to_1_whatever_is_drawn(base: float | None, weights: list[float]) -> None:
    masks = torch.zeros(2, 4, 4)
    masks[0, :, :2] = 1
    masks[1, :2] = 0.5  # overlaps, and leaves a quarter to nobody
    parts = shares(masks, weights, base)
    assert len(parts) == (2 if base is None else 3)
    torch.testing.assert_close(parts.sum(0), torch.ones(4, 4))
    assert (parts >= 0).all()
    assert extents(masks, has_base=base is not None).shape == parts.shape


def test_base_and_weights_share_the_regions() -> None:
    masks = split_masks("1,1", 2, 2)
    base, left, right = shares(masks, [1.0, 1.0], 0.2)
    torch.testing.assert_close(base, torch.full((2, 2), 0.2))
    torch.testing.assert_close(left, torch.tensor([[0.8, 0.0]] * 2))
    torch.testing.assert_close(right, torch.tensor([[0.0, 0.8]] * 2))
    base, left, right = shares(masks, [0.5, 1.0], 0.2)
    torch.testing.assert_close(base, torch.tensor([[1 / 3, 0.2]] * 2))
    base, left, right = shares(masks * 0, [1.0, 1.0], 0.2)
    assert (base == 1).all()
    left, right = shares(masks * 0, [1.0, 1.0], None)
    assert (left == 0.5).all()


def test_drawn_masks_are_stretched_and_empty_ones_refused() -> None:
    pixels = np.zeros((16, 32), np.uint8)
    pixels[:, :16] = 255
    (mask,) = drawn_masks([Image.fromarray(pixels)], 2, 3)
    torch.testing.assert_close(mask, torch.tensor([[1.0, 0.5, 0.0]] * 2))
    with pytest.raises(BadRequest, match="drawn region 2 is empty"):
        drawn_masks([Image.fromarray(pixels), Image.new("L", (8, 8))], 2, 2)


def test_weights_are_one_a_region() -> None:
    assert read_weights("", 2) == [1.0, 1.0]
    assert read_weights(" 0.5 ", 2) == [0.5, 1.0]
    for wrong in ("1,2,3", "a", "-1", "11"):
        with pytest.raises(BadRequest, match="weights"):
            read_weights(wrong, 2)


def test_prompt_is_cut_at_breaks_or_lines() -> None:
    split = split_prompt("a heart,  BREAK a frog BREAKFAST", "BREAK", 2)
    assert [part.text for part in split.regions] == ["a heart", "a frog BREAKFAST"]
    assert split.first is None
    assert split.region_at(3) == 0
    assert split.region_at(20) == 1
    assert split.region_at(11) is None
    split = split_prompt("snow\n\n a heart\na frog\n", "lines", 2)
    assert split.first is not None
    assert texts_of(split, "base") == ("snow", "a heart", "a frog")
    assert texts_of(split, "before each") == ("snow, a heart", "snow, a frog")
    assert split.region_at(2) is None
    assert split.region_at(8) == 0
    assert joined(["a", "", "b"]) == "a, b"
    assert [part.text for part in split_prompt("a BREAK BREAK b", "BREAK", 3).regions] == ["a", "", "b"]


def test_a_first_part_of_tags_alone_is_no_base_prompt() -> None:
    split = split_prompt("<lora:x:1> BREAK a BREAK b", "BREAK", 2)
    assert split.first is None
    assert texts_of(split, "base") == ("a", "b")
    assert split.region_at(0) is None


@pytest.mark.parametrize("prompt", ["a", "a BREAK b BREAK c BREAK d", ""])
def test_parts_that_do_not_fit_the_regions_are_refused(prompt: str) -> None:
    with pytest.raises(BadRequest, match=r"part.* for 2 regions"):
        split_prompt(prompt, "BREAK", 2)
