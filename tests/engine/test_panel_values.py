"""Values of panels: read once a job, and what one hook does to them no other sees."""

from __future__ import annotations

import pytest

from backend.engine.panel_values import PanelValues
from backend.errors import BadRequest
from backend.extending import PanelSpec
from backend.parameters import Options, Parameters, options, registered, whole
from backend.request import GenerationRequest

reads = []


class Unit(Parameters):
    version = 2
    name: str = registered("none", "preprocessors", label="Preprocessor")
    settings: Options = options("name", label="Settings")
    count: int = whole(1, low=0, high=9, label="Count")

    @classmethod
    def migrated(cls, version, values):
        reads.append(version)
        return values


class Words(Parameters):
    number: int = whole(3, low=0, high=9, label="Number")


@pytest.fixture
def panels():
    reads.clear()
    always = PanelSpec("words", "Words", Words, always=True)
    return PanelValues({"unit": PanelSpec("unit", "Unit", Unit), "words": always})


def asking(version: int = 1, **values: object) -> GenerationRequest:
    return GenerationRequest(extensions={"unit": {"version": version, "values": values}})


def test_values_are_read_once_for_all_hooks_of_a_job_and_anew_for_another(panels):
    for seed in range(3):
        request = GenerationRequest(seed=seed, extensions=asking(settings={"low": 1}).extensions)
        assert panels.of(request) == {"unit": Unit(settings={"low": 1}), "words": Words()}
    assert reads == [1]
    assert panels.of(asking(count=2))["unit"] == Unit(count=2)
    assert panels.of(GenerationRequest()) == {"words": Words()}
    assert reads == [1, 1]


def test_what_a_hook_does_to_its_values_no_other_hook_sees(panels):
    request = asking(settings={"low": 1})
    unit = panels.of(request)["unit"]
    unit.settings["low"] = 7
    object.__setattr__(unit, "count", 7)
    with pytest.raises(ValueError, match="frozen"):
        unit.count = 8
    assert panels.of(request)["unit"] == Unit(settings={"low": 1})


def test_what_is_equal_but_no_number_is_refused_after_the_number_too(panels):
    assert panels.of(asking(2, count=1))["unit"] == Unit(count=1)
    for wrong in (True, 1.0):
        with pytest.raises(BadRequest, match="Count"):
            panels.of(asking(2, count=wrong))
