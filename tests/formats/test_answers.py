"""A person's answer is worth more than the file, and only to what the file leaves open."""

from __future__ import annotations

import pytest

from backend.errors import BadRequest
from backend.formats.answers import answered, check_answer
from backend.formats.vae_files import takes
from tests.formats.files import published


def test_answer_decides_between_large_and_turbo_and_can_be_changed(detected):
    large = detected(published("sd35_large"))
    turbo = answered(large, {"variant": "SD3.5 Large Turbo"})
    assert (turbo.variant, turbo.defaults.steps, turbo.defaults.cfg_scale) == ("SD3.5 Large Turbo", 4, 1.0)
    assert turbo.questions[0].assumed == "SD3.5 Large Turbo"
    assert answered(turbo, {"variant": "SD3.5 Large"}) == large


def test_answer_decides_what_a_vae_is_made_for(detected):
    info = detected(published("sd3_vae"))
    assert (takes(info, "sd3"), takes(info, "sd1")) == (True, True)
    flux = answered(info, {"latent": "FLUX"})
    assert (flux.made_for, flux.questions[0].assumed, takes(flux, "sd3")) == ("FLUX", "FLUX", False)
    sdxl = answered(detected(published("sdxl_vae")), {"latent": "SDXL"})
    assert [takes(sdxl, family) for family in ("sdxl", "sdxl_refiner", "sd1")] == [True, True, False]


@pytest.mark.parametrize(("tensors", "name", "about", "assumed"), [
    ("sd35_large", "sd3.5_large_turbo", "variant", "SD3.5 Large Turbo"),
    ("sd35_large", "sd3.5_large", "variant", "SD3.5 Large"),
    ("sdxl_base", "noobaiXL-vPred-1.0", "prediction", "v"),
    ("sdxl_base", "Illustrious_v-pred_ztsnr", "prediction", "v, zero-terminal SNR"),
    ("sdxl_base", "previous", "prediction", "eps"),
    ("sdxl_vae", "sdxl_vae", "latent", "SDXL"),
    ("sdxl_vae", "vae-ft-mse-840000-ema-pruned", "latent", "SD1.5 or SD2"),
    ("sd3_vae", "ae", "latent", "FLUX"),
    ("sd3_vae", "sd3_vae_fp32", "latent", "SD3 or SD3.5"),
])  # fmt: skip
def test_a_files_name_only_sets_what_is_assumed(detected, tensors, name, about, assumed):
    told, untold = detected(published(tensors), stem=name), detected(published(tensors))
    question = next(q for q in told.questions if q.about == about)
    before = next(q for q in untold.questions if q.about == about)
    assert (question.assumed, question.options) == (assumed, before.options)
    assert question.asks or question == before


def test_an_assumption_from_the_name_holds_until_a_person_answers(detected):
    turbo = detected(published("sd35_large"), stem="x-turbo")
    assert (turbo.variant, turbo.defaults.steps) == ("SD3.5 Large Turbo", 4)
    assert answered(turbo, {"variant": "SD3.5 Large"}).defaults.steps == 40
    v = detected(published("sdxl_base"), stem="x-vpred")
    assert (v.prediction, v.prediction_source) == ("v", "file name")
    assert answered(v, {"prediction": "eps"}).prediction == "eps"


def test_a_name_counts_less_than_anything_in_the_file(detected):
    said = detected(published("sdxl_base"), {"modelspec.prediction_type": "epsilon"}, stem="x-vpred")
    assert (said.prediction, said.prediction_source) == ("eps", "metadata")


def test_answers_that_nothing_asks_for_change_nothing(detected):
    large = detected(published("sd35_large"))
    assert answered(large, {"variant": "SD3 Medium", "prediction": "v"}) == large


@pytest.mark.parametrize(("about", "answer", "sentence"), [
    ("variant", "SD3.5 Large Turb", "SD3.5 Large Turbo"), ("varian", "SD3.5 Large", "variant"),
])  # fmt: skip
def test_an_answer_that_does_not_fit_is_refused_with_the_nearest(detected, about, answer, sentence):
    with pytest.raises(BadRequest, match=sentence):
        check_answer(detected(published("sd35_large")), about, answer)
