"""Every field has bounds; what does not fit is refused with field, value and range; what fits comes back the same."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest

from backend.errors import BadRequest
from backend.request import (
    FIELDS,
    MAX_PANELS,
    MAX_PROMPT,
    MAX_SEED,
    GenerationRequest,
    accepted,
    parse_request,
    request_schema,
    request_to_json,
)

PROPERTIES = request_schema()["properties"]


def kinds_of(name: str) -> list[dict]:
    node = PROPERTIES[name]
    return [choice for choice in node.get("anyOf", [node]) if choice.get("type") != "null"]


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_is_bounded_and_named(name):
    """Strings have a maximum, numbers both ends, and each field a title for page and command line."""
    assert PROPERTIES[name]["title"] != name
    (kind,) = kinds_of(name)
    if kind["type"] in {"integer", "number"}:
        assert math.isfinite(kind["minimum"])
        assert math.isfinite(kind["maximum"])
    elif kind["type"] == "string":
        assert "enum" in kind or "pattern" in kind or kind["maxLength"] <= MAX_PROMPT
    elif kind["type"] == "object":
        assert kind["maxProperties"] == MAX_PANELS
    else:
        assert kind["type"] == "boolean"


def test_the_schema_has_every_field_and_refuses_others():
    assert set(PROPERTIES) == set(FIELDS)
    assert request_schema()["additionalProperties"] is False
    json.dumps(request_schema(), allow_nan=False)


NUMBERS = [0, -1, -1e300, 10**6, 10**30, 0.5, math.nan, math.inf, -math.inf, True, "20", None, [], {}, "NaN", 1e999]
TEXTS = [None, 7, True, [], {"a": 1}, b"bytes", "\ud800", "x" * (MAX_PROMPT + 1)]


def fits(name: str, value: object) -> bool:
    """The bounds read from the schema alone."""
    (kind,) = kinds_of(name)
    if value is None:
        return any(choice.get("type") == "null" for choice in PROPERTIES[name].get("anyOf", []))
    if kind["type"] == "boolean":
        return isinstance(value, bool)
    if kind["type"] in {"integer", "number"}:
        if isinstance(value, bool) or not isinstance(value, int if kind["type"] == "integer" else int | float):
            return False
        return math.isfinite(value) and kind["minimum"] <= value <= kind["maximum"]
    if kind["type"] == "object":
        return value == {}
    return False  # no text below fits a text field


@pytest.mark.parametrize("name", FIELDS)
def test_what_does_not_fit_is_refused_with_field_value_and_range(name):
    is_text = kinds_of(name)[0]["type"] == "string"
    for value in TEXTS if is_text else NUMBERS:
        if fits(name, value):
            continue
        with pytest.raises(BadRequest) as caught:
            parse_request({name: value})
        error = caught.value
        assert error.field == name
        assert f"({name})" in error.what
        assert accepted(name) in error.todo
        assert 10 <= len(str(error)) <= 300
        str(error).encode()


@pytest.mark.parametrize("name", [n for n in FIELDS if kinds_of(n)[0]["type"] in {"integer", "number"}])
def test_both_ends_of_a_range_are_accepted(name):
    (kind,) = kinds_of(name)
    for value in (kind["minimum"], kind["maximum"]):
        pair = {"guidance_start": 0.0, "guidance_end": 1.0} if name.startswith("guidance") else {}
        assert getattr(parse_request({**pair, name: value}), name) == value


def test_values_outside_are_told_with_the_range():
    with pytest.raises(BadRequest, match=r"Sampling steps \(steps\) is 0.*a whole number from 1 to 150"):
        parse_request({"steps": 0})
    with pytest.raises(BadRequest, match="not a finite number"):
        parse_request({"cfg_scale": math.nan})
    with pytest.raises(BadRequest, match="one of 'png', 'jpeg', 'webp'"):
        parse_request({"image_format": "gif"})
    with pytest.raises(BadRequest, match="64 hex digits"):
        parse_request({"init_image": "/etc/passwd"})


@pytest.mark.parametrize("name", ["stepz", "", "__class__", "x" * 10_000, 5])
def test_unknown_fields_are_refused_by_name(name):
    with pytest.raises(BadRequest, match="is not known"):
        parse_request({name: 1})


def test_an_unknown_field_is_told_with_the_nearest():
    with pytest.raises(BadRequest, match="Did you mean 'steps'"):
        parse_request({"stepz": 1})


def test_fields_must_agree():
    with pytest.raises(BadRequest, match="guidance_start"):
        parse_request({"guidance_start": 0.6, "guidance_end": 0.4})
    with pytest.raises(BadRequest, match="init_image"):
        parse_request({"mask": "0" * 64})


@pytest.mark.parametrize(
    "prompt", ["", "\0", "\u202e", "<script>alert(1)</script>", "((((" * 20_000, "🦊" * MAX_PROMPT]
)
def test_any_text_may_be_a_prompt(prompt):
    assert parse_request({"prompt": prompt}).prompt == prompt


def test_a_request_comes_back_from_json_the_same():
    request = GenerationRequest(prompt="a fox", seed=MAX_SEED, shift=3, init_image="0" * 64, mask="1" * 64)
    assert parse_request(json.loads(json.dumps(request_to_json(request)))) == request


def test_a_request_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        GenerationRequest().seed = 3


def test_the_tab_follows_from_the_inputs():
    assert GenerationRequest().tab == "txt2img"
    assert GenerationRequest(init_image="0" * 64).tab == "img2img"
    assert GenerationRequest(init_image="0" * 64, mask="1" * 64).tab == "inpaint"


def test_pictures_of_a_batch_take_the_next_seed_or_the_next_variation():
    assert [GenerationRequest(seed=5).seeds_of(i) for i in range(2)] == [(5, -1), (6, -1)]
    varied = GenerationRequest(seed=5, variation_seed=9, variation_strength=0.5)
    assert [varied.seeds_of(i) for i in range(2)] == [(5, 9), (5, 10)]


@pytest.mark.parametrize(("panels", "words"), [
    ({"a": 1}, "version and values alone"), ({"A b": {}}, "panel named 'A b'"), ({"a": {"version": 0}}, "from 1 on"),
    ({"a": {"version": True}}, "from 1 on"), ({"a": {"values": {"x": math.nan}}}, "not finite"),
    ({"a": {"values": {"x": object()}}}, "no JSON value"), ({f"p{n}": {} for n in range(51)}, "at most 50"),
    ({"a": {"values": {"x": "x" * 200_000}}}, "longer than"), ({"a": {"more": 1}}, "version and values alone"),
    ({"a": {"values": {"x": [[[[[[[[[1]]]]]]]]]}}}, "nested"),
])  # fmt: skip
def test_panels_that_do_not_fit_are_refused(panels, words):
    with pytest.raises(BadRequest, match=words) as caught:
        parse_request({"extensions": panels})
    assert caught.value.field == "extensions"


def test_panels_cannot_change_and_count_in_comparison():
    values = {"pag": {"version": 1, "values": {"scale": 2.5, "layers": [1, 2]}}}
    request = parse_request({"extensions": values})
    assert parse_request(json.loads(json.dumps(request_to_json(request)))) == request
    assert hash(request) != hash(parse_request({}))
    with pytest.raises(TypeError, match="cannot be changed"):
        request.extensions["pag"] = {}
