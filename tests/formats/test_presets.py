"""Few-step settings: found by name, taken from a file's title where it has one, never from its shapes."""

from __future__ import annotations

import pytest

from backend.errors import BadRequest
from backend.formats.presets import PRESETS, check_preset, find_preset
from backend.records.registry import core_registry
from backend.request import parse_request
from tests.formats.files import published


def test_every_preset_is_a_request_that_the_engine_knows():
    samplers = {row["name"] for row in core_registry()["samplers"]}
    schedules = {row["name"] for row in core_registry()["schedules"]}
    for preset in PRESETS:
        request = parse_request(preset.fields())
        assert request.sampler in samplers
        assert request.schedule in schedules
    assert len({preset.name for preset in PRESETS}) == len({preset.label for preset in PRESETS}) == len(PRESETS)


def test_a_preset_is_found_by_name_or_label_and_a_near_name_is_told():
    assert find_preset("Lightning, 4 steps") is find_preset("lightning-4")
    with pytest.raises(BadRequest, match="lightning-4"):
        find_preset("lightning4")


@pytest.mark.parametrize(
    ("title", "steps", "sampler"),
    [
        ("SDXL Lightning 4-step", 4, "euler"),
        ("sdxl_lightning_8step_unet", 8, "euler"),
        ("Some Mix Lightning", 8, "euler"),
        ("SDXL-Turbo", 4, "euler_a"),
        ("Turbo 1 step", 1, "euler_a"),
        ("LCM merge", 8, "lcm"),
        ("Hyper-SD 4steps", 4, "euler"),
        ("DMD2 SDXL 4step", 4, "lcm"),
        ("Hyper Realistic XL", 25, "dpmpp_2m"),
        ("Turbocharged", 25, "dpmpp_2m"),
        ("", 25, "dpmpp_2m"),
    ],
)
def test_a_title_in_the_metadata_brings_its_settings(detected, title, steps, sampler):
    info = detected(published("sdxl_base"), {"modelspec.title": title})
    assert (info.defaults.steps, info.defaults.sampler) == (steps, sampler)
    assert info.defaults.width == 1024
    assert (info.defaults.cfg_scale < 2) is (steps < 25)
    assert any("the title says so" in note for note in info.notes) is (steps < 25)


def test_what_the_file_states_itself_counts_more_than_its_title(detected):
    metadata = {"modelspec.title": "Lightning 4 steps", "easel.defaults": '{"steps": 6}'}
    assert detected(published("sdxl_base"), metadata).defaults.steps == 6
    turbo = detected(published("sd35_large"), {"modelspec.title": "Stable Diffusion 3.5 Large Turbo"})
    assert (turbo.defaults.steps, turbo.defaults.shift, turbo.defaults.schedule) == (4, 3.0, "normal")


def test_a_preset_for_another_family_is_refused_and_those_that_fit_are_named():
    check_preset(find_preset("sd35-turbo"), "sd3")
    with pytest.raises(BadRequest, match=r"sd35-turbo is for models of the family sd3; .* family sdxl.*lightning-8"):
        check_preset(find_preset("sd35-turbo"), "sdxl")
    with pytest.raises(BadRequest, match=r"the checkpoint is of the family sd3.*sd35-turbo"):
        check_preset(find_preset("lcm-8"), "sd3")
