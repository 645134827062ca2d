"""The registry document: shipped, cached, looked up by name or label."""

from __future__ import annotations

import json

import pytest

from backend.errors import BadRequest
from backend.records.registry import (
    core_registry,
    find_registered,
    is_registry,
    label_of,
    load_registry,
    registered_name,
    save_registry,
)


def test_the_shipped_document_is_one_and_has_what_everybody_expects():
    registry = core_registry()
    assert is_registry(registry)
    assert {"euler", "euler_a", "heun", "dpmpp_2m", "dpmpp_2s_a", "dpmpp_sde", "dpmpp_2m_sde", "dpmpp_3m_sde", "unipc",
            "ddim", "ddpm", "lcm", "dpm2", "lms"} == {row["name"] for row in registry["samplers"]}  # fmt: skip
    assert {"automatic", "normal", "karras", "exponential", "sgm_uniform", "simple", "beta", "ddim_uniform",
            "linear_quadratic"} == {row["name"] for row in registry["schedules"]}  # fmt: skip
    schedules = {row["name"] for row in registry["schedules"]}
    assert all(row["default_schedule"] in schedules for row in registry["samplers"])


def test_what_the_engine_published_is_kept(tmp_path):
    path = tmp_path / "data" / "registry.json"
    assert load_registry(path) == core_registry()
    told = {**core_registry(), "samplers": [{"name": "restart", "label": "Restart"}]}
    save_registry(path, told)
    assert load_registry(path) == told


@pytest.mark.parametrize("content", ["", "{", "[]", '{"schema": 2}', '{"schema": 1}', "[" * 100_000,
    json.dumps({"schema": 1, "samplers": [{"name": 1, "label": "x"}], "schedules": []})])  # fmt: skip
def test_a_cache_that_cannot_be_read_gives_way_to_the_shipped_one(tmp_path, content):
    (tmp_path / "registry.json").write_text(content)
    assert load_registry(tmp_path / "registry.json") == core_registry()


def test_names_and_labels_in_any_case_are_found():
    registry = core_registry()
    assert registered_name(registry, "samplers", " euler  A ") == "euler_a"
    assert registered_name(registry, "schedules", "sgm_uniform") == "sgm_uniform"
    assert registered_name(registry, "schedules", "SGM-uniform") == "sgm_uniform"
    assert find_registered(registry, "samplers", "nothing") is None
    assert label_of(registry, "samplers", "unipc") == "UniPC"
    assert label_of(registry, "samplers", "theirs") == "theirs"
    with pytest.raises(BadRequest, match="Did you mean 'UniPC'"):
        registered_name(registry, "samplers", "unipcc")


def test_a_sampler_with_its_schedule_behind_it_is_told_as_the_two():
    with pytest.raises(BadRequest, match="Write sampler 'DPM\\+\\+ 2M' and schedule 'Karras'") as told:
        registered_name(core_registry(), "samplers", "DPM++ 2M Karras")
    assert told.value.field == "sampler"
