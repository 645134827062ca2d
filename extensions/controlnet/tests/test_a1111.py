"""Parameters of sd-webui-controlnet become units, and ours are written so that its parser takes them."""

from __future__ import annotations

import json
import re

import pytest

from backend.records.read_parameters import read_parameters
from extensions.controlnet.tests.test_units import guided

LINE = "a fox\nSteps: 20, Sampler: DPM++ 2M Karras, CFG scale: 7, Seed: 1, Size: 512x512, "
#: Fields of its ControlNetUnit that a text may set.
THEIRS = {
    "module", "model", "weight", "resize_mode", "processor_res", "threshold_a", "threshold_b", "guidance_start",
    "guidance_end", "pixel_perfect", "control_mode",
}  # fmt: skip


def units(engine, pairs):
    parsed = read_parameters(LINE + pairs, engine.registry)
    return {name: told["values"] for name, told in parsed.fields["extensions"].items()}, parsed


def test_a_unit_as_it_is_written_today(engine):
    found, parsed = units(
        engine,
        'ControlNet 0: "Module: canny, Model: control_v11p_sd15_canny [d14c016b], Weight: 0.8, Resize Mode: Resize and '
        "Fill, Low Vram: False, Processor Res: 512, Threshold A: 90, Threshold B: 210, Guidance Start: 0, "
        'Guidance End: 0.9, Pixel Perfect: True, Control Mode: ControlNet is more important, Hr Option: Both", '
        "Version: v1.10.0",
    )
    assert found["controlnet"] == {
        "preprocessor": "canny", "network": "control_v11p_sd15_canny", "weight": 0.8, "resize_mode": "resize and fill",
        "resolution": 512, "options": {"low": 90, "high": 210}, "start": 0.0, "end": 0.9, "pixel_perfect": True,
        "mode": "control is more important",
    }  # fmt: skip
    assert parsed.leftovers == {}
    assert parsed.notes == ("ControlNet: choose its picture, which parameters do not hold.",)


def test_a_unit_of_the_time_between(engine):
    found, _ = units(
        engine,
        'ControlNet 0: "preprocessor: canny, model: control_canny [d14c016b], weight: 1, starting/ending: (0.1, 0.8), '
        'resize mode: Just Resize, pixel perfect: False, control mode: Balanced, preprocessor params: (384, 50, 150)"',
    )
    assert found["controlnet"] == {
        "preprocessor": "canny", "network": "control_canny", "weight": 1.0, "start": 0.1, "end": 0.8,
        "resize_mode": "just resize", "pixel_perfect": False, "mode": "balanced", "resolution": 384,
        "options": {"low": 50, "high": 150},
    }  # fmt: skip


def test_units_of_the_first_form_and_a_detector_that_is_not_here(engine):
    found, parsed = units(
        engine,
        "ControlNet-0 Enabled: True, ControlNet-0 Module: hed, ControlNet-0 Model: control_hed-fp16 [13fee50b], "
        "ControlNet-0 Weight: 1, ControlNet-0 Guidance Start: 0, ControlNet-0 Guidance End: 1, ControlNet-1 Enabled: "
        "True, ControlNet-1 Module: depth, ControlNet-1 Model: control_depth-fp16 [400750f6], ControlNet-1 Weight: 0.8",
    )
    assert found["controlnet"]["preprocessor"] == "soft_edge"
    assert found["controlnet_2"] == {"network": "control_depth-fp16", "weight": 0.8}
    told = " ".join(parsed.notes)
    assert "'hed' is not here; 'soft_edge' comes near" in told and "Module 'depth' is not here and is left out" in told


def test_an_ip_adapter_among_its_units_is_a_unit_of_that_extension(engine):
    found, parsed = units(
        engine,
        'ControlNet 0: "Module: ip-adapter_clip_sdxl, Model: ip-adapter_xl [4209e9f7], Weight: 0.6, Control Mode: '
        'Balanced", ControlNet 1: "Module: none, Model: abc, Weight: 1"',
    )
    assert found == {"ip_adapter": {"adapter": "ip-adapter_xl", "weight": 0.6},
                     "controlnet": {"preprocessor": "none", "network": "abc", "weight": 1.0}}  # fmt: skip
    assert not parsed.leftovers


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"options": {"low": 20, "high": 60, "version": 1}, "weight": 0.75}, "Threshold A: 20, Threshold B: 60"),
        ({"preprocessor": "recolor", "options": {"keeps": "intensity", "gamma": 0.5}}, "Module: recolor_intensity"),
        ({"preprocessor": "tile", "mode": "prompt is more important", "end": 0.5}, "Module: tile_resample"),
        ({"preprocessor": "scribble", "pixel_perfect": False, "resolution": 768}, "Module: scribble_xdog"),
    ],
)
def test_what_is_saved_is_read_by_their_parser_and_means_the_same_to_ours(engine, picture, values, told):
    made = engine.generate(guided("tiny-xl", "edges-xl", picture, **values)).pictures[0]
    written = re.search(r'ControlNet 0: ("(?:\\.|[^\\"])+")', made.parameters)
    assert written
    unit = json.loads(written[1])
    assert told in unit
    assert re.search(r"Model: edges-xl \[[0-9a-f]{8}\]", unit)
    parsed = dict(item.strip().split(": ") for item in unit.split(","))  # their parse_unit, which wants two parts
    assert {"_".join(key.lower().split()) for key in parsed} <= THEIRS
    found, _ = units(engine, f"ControlNet 0: {written[1]}")
    asked = {**values, "network": "edges-xl"}
    options = {k: v for k, v in asked.pop("options", {}).items() if k != "version"}
    assert asked.items() <= found["controlnet"].items()
    assert options.items() <= found["controlnet"].get("options", {}).items()
