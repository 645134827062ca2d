"""A person's answer is worth more than the file, and only to what the file leaves open."""

from __future__ import annotations

import pytest

from backend.errors import BadRequest
from backend.formats.answers import answered, check_answer
from tests.formats.files import published


def test_answer_decides_between_large_and_turbo_and_can_be_changed(detected):
    large = detected(published("sd35_large"))
    turbo = answered(large, {"variant": "SD3.5 Large Turbo"})
    assert (turbo.variant, turbo.defaults.steps, turbo.defaults.cfg_scale) == ("SD3.5 Large Turbo", 4, 1.0)
    assert turbo.questions[0].assumed == "SD3.5 Large Turbo"
    assert answered(turbo, {"variant": "SD3.5 Large"}) == large


def test_answers_that_nothing_asks_for_change_nothing(detected):
    large = detected(published("sd35_large"))
    assert answered(large, {"variant": "SD3 Medium", "prediction": "v"}) == large


@pytest.mark.parametrize(("about", "answer", "sentence"), [
    ("variant", "SD3.5 Large Turb", "SD3.5 Large Turbo"), ("varian", "SD3.5 Large", "variant"),
])  # fmt: skip
def test_an_answer_that_does_not_fit_is_refused_with_the_nearest(detected, about, answer, sentence):
    with pytest.raises(BadRequest, match=sentence):
        check_answer(detected(published("sd35_large")), about, answer)
