"""What checkpoints cannot do is refused before a job is accepted, with the field and what is accepted."""

from __future__ import annotations

from dataclasses import replace

import pytest

from backend.errors import BadRequest, ModelUnsupported
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


REFINER = replace(XL, name="refiner", family="sdxl_refiner", variant="SDXL refiner")
EDIT = replace(XL, name="edit", variant="SDXL instruct-pix2pix", denoiser=replace(XL.denoiser, in_channels=8))
SHA = "a" * 64


@pytest.mark.parametrize(
    ("info", "refiner"),
    [
        (XL, SD3),
        (SD3, XL),
        (XL, replace(REFINER, latent=replace(XL.latent, scale=0.18215))),
        (XL, replace(REFINER, latent=replace(XL.latent, means=(0.0,) * 4, deviations=(2.0,) * 4))),
        (SD3, replace(SD3, name="eps", prediction="eps")),
    ],
)
def test_a_refiner_of_another_latent_space_is_refused_by_name(info, refiner) -> None:
    with pytest.raises(ModelUnsupported, match=f"{refiner.name} .* another latent space than {info.name}") as caught:
        resolved(GenerationRequest(refiner="r"), info, refiner=refiner)
    assert caught.value.field == "refiner"


@pytest.mark.parametrize("refiner", [REFINER, replace(XL, name="other", prediction="v"), replace(XL)])
def test_any_checkpoint_of_the_same_latents_may_be_the_refiner(refiner) -> None:
    request = resolved(GenerationRequest(refiner="other.safetensors"), XL, refiner=refiner).request
    assert (request.refiner, request.refiner_switch) == ("other", 0.8)


def test_an_instruct_pix2pix_model_wants_a_picture_and_refines_nothing() -> None:
    with pytest.raises(BadRequest, match="changes a picture") as caught:
        resolved(GenerationRequest(), EDIT)
    assert caught.value.field == "init_image"
    with pytest.raises(ModelUnsupported, match="cannot take over"):
        resolved(GenerationRequest(refiner="edit"), XL, refiner=EDIT)
    given = GenerationRequest(init_image=SHA, denoise=1.0, image_cfg_scale=2.0)
    assert resolved(given, EDIT, init_size=(1024, 1024)).notes == ()


def test_layers_are_checked_against_both_checkpoints() -> None:
    deeper = replace(SD3, name="deeper", denoiser=replace(SD3.denoiser, depth=12))
    with pytest.raises(BadRequest, match="last layer of sd3 is 1"):
        resolved(GenerationRequest(skip_layer_scale=1.0, refiner="sd3"), deeper, refiner=SD3)


def test_what_only_other_models_read_is_said() -> None:
    notes = resolved(GenerationRequest(image_cfg_scale=3.0, negative_aesthetic_score=1.0)).notes
    assert len(notes) == 2
    assert resolved(GenerationRequest(negative_aesthetic_score=1.0, refiner="r"), refiner=REFINER).notes == ()
    assert resolved(GenerationRequest(aesthetic_score=1.0, crop_left=8), REFINER).notes == ()
