"""Values of panels against the registry document alone: names of registries, and the options of what they name."""

from __future__ import annotations

import json

import pytest

from backend.errors import BadRequest
from backend.parameters import Options, Parameters, number, options, picture, registered, whole
from backend.records.panels import check_panels, idle_samplers, whole_values
from backend.request import GenerationRequest


class Blur(Parameters):
    radius: int = whole(3, low=1, high=9, label="Radius")


class Unit(Parameters):
    preprocessor: str = registered("none", "preprocessors", label="Preprocessor")
    settings: Options = options("preprocessor", label="Its settings")
    weight: float = number(1.0, low=0.0, high=2.0, label="Weight")
    hint: str = picture(label="Hint")


REGISTRY = {
    "panels": [
        {"name": "unit", "label": "Unit", "families": [], "version": 1, "schema": Unit.model_json_schema()},
    ],
    "preprocessors": [
        {"name": "none", "label": "None", "version": 1, "schema": {"type": "object", "properties": {}}},
        {"name": "blur", "label": "Blur", "version": 1, "schema": Blur.model_json_schema()},
    ],
}


def check(**values: object) -> None:
    request = GenerationRequest(prompt="a fox", extensions={"unit": {"version": 1, "values": values}})
    check_panels(request, "sdxl", REGISTRY)


def test_a_registered_name_and_its_options_are_accepted():
    check()
    check(preprocessor="blur", settings={"radius": 4})
    check(preprocessor="blur", settings={"radius": 4, "version": 1})
    check(preprocessor="blur", settings={"radius": 99, "version": 0})  # an older version's: the engine migrates them
    assert Unit(preprocessor="blur", settings={"radius": 4}).settings == {"radius": 4}


def test_an_unknown_name_is_refused_with_the_near_one():
    with pytest.raises(BadRequest, match=r"(?s)Preprocessor.*'blurr'.*blur"):
        check(preprocessor="blurr")


def test_options_of_what_is_chosen_are_checked_by_its_schema():
    with pytest.raises(BadRequest, match="Unit: Blur: field 'radios'"):
        check(preprocessor="blur", settings={"radios": 4})
    with pytest.raises(BadRequest, match=r"Unit: Blur: Radius \(radius\) is 10"):
        check(preprocessor="blur", settings={"radius": 10})
    with pytest.raises(BadRequest, match="Unit: None: field 'radius'"):
        check(settings={"radius": 4})
    with pytest.raises(BadRequest, match="Its settings"):
        check(settings={"radius": [4]})


@pytest.mark.parametrize(("field", "value", "accepted"), [
    ("weight", 1e9, "Accepted: a number from 0 to 2."),
    ("weight", "NaN", "Accepted: a number from 0 to 2."),
    ("hint", "house.png", "Accepted: the sha256 of a picture that was sent before"),
])  # fmt: skip
def test_a_value_that_is_refused_is_told_with_what_is_accepted(field, value, accepted):
    with pytest.raises(BadRequest) as refused:
        check(**{field: value})
    assert f"Unit: {field.title()} ({field}) is " in refused.value.what
    assert accepted in refused.value.todo


def test_one_picture_has_one_record_whoever_asked():
    def told(stored: dict[str, object]) -> str:
        request = GenerationRequest(prompt="a fox", extensions={"unit": stored})
        return json.dumps(whole_values(request, REGISTRY))

    page = told({"version": 1, "values": {"preprocessor": "none", "settings": {}, "weight": 1, "hint": ""}})
    assert page == told({"version": 1, "values": {"weight": 1.0}}) == told({"version": 1, "values": {}})
    newer = {"version": 2, "values": {"strength": 1}}
    assert json.loads(told(newer)) == {"unit": newer}


@pytest.mark.parametrize(("sampler", "notes"), [
    ("jumps", []),
    ("euler", ["The settings of Jumps have no effect: the sampling method is Euler."]),
])  # fmt: skip
def test_settings_of_a_sampler_that_is_not_used_are_told(sampler, notes):
    rows = [{"name": "euler", "label": "Euler"}, {"name": "jumps", "label": "Jumps", "panel": "jumps"}]
    stored = {"jumps": {"version": 1, "values": {}}, "unit": {"version": 1, "values": {}}}
    request = GenerationRequest(prompt="a fox", sampler=sampler, extensions=stored)
    assert idle_samplers(request, {"samplers": rows}) == notes
