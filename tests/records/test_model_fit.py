"""What checkpoints cannot do is refused before a job is accepted, with the field and what is accepted."""

from __future__ import annotations

import pytest

from backend.errors import BadRequest
from backend.records.model_fit import skip_layer_indices
from backend.request import GenerationRequest
from tests.records.test_resolve import SD3, XL, resolved


@pytest.mark.parametrize("text", ["7, 8, 9", "7,8,9", " 7 8  9, ", "9,8,7,"])
def test_layers_are_numbers_in_any_order_with_commas_or_spaces(text: str) -> None:
    assert skip_layer_indices(text) == {7, 8, 9}


@pytest.mark.parametrize("text", ["", " ", "seven", "7-9", "-1", "7.5", "9" * 5, ",", "7, 8, x", "٧"])
def test_what_is_no_list_of_layers_is_refused(text: str) -> None:
    with pytest.raises(BadRequest, match="names no layers") as caught:
        resolved(GenerationRequest(skip_layers=text, skip_layer_scale=1.0), SD3)
    assert caught.value.field == "skip_layers"
    resolved(GenerationRequest(skip_layers=text), SD3)  # off: not read


def test_a_layer_beyond_the_model_is_refused_with_the_last_one() -> None:
    with pytest.raises(BadRequest, match="names 2, but the last layer of sd3 is 1") as caught:
        resolved(GenerationRequest(skip_layers="1, 2, 9", skip_layer_scale=2.5), SD3)
    assert caught.value.field == "skip_layers"
    assert resolved(GenerationRequest(skip_layers="0, 1", skip_layer_scale=2.5), SD3).notes == ()


def test_a_u_net_has_no_layers_to_skip() -> None:
    with pytest.raises(BadRequest, match=r"xl \(SDXL base\) is a U-Net") as caught:
        resolved(GenerationRequest(skip_layer_scale=2.5), XL)
    assert caught.value.field == "skip_layer_scale"
    assert resolved(GenerationRequest(), XL).notes == ()


def test_a_window_that_ends_before_it_begins_is_refused() -> None:
    request = GenerationRequest(skip_layers="1", skip_layer_scale=2.5, skip_layer_start=0.5)
    with pytest.raises(BadRequest, match=r"ends at 0\.2 of the steps, before it begins at 0\.5") as caught:
        resolved(request, SD3)
    assert caught.value.field == "skip_layer_end"
