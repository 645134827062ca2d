"""A field of the request becomes a component and back; the schema decides labels, bounds and steps."""

from __future__ import annotations

import pytest

from backend.errors import BadRequest
from backend.request import FIELDS, GenerationRequest, parse_request, request_to_json
from webui.gradio_start import prepare_gradio


@pytest.fixture(scope="module", autouse=True)
def gradio():
    import sys

    if "gradio" not in sys.modules:
        prepare_gradio()
    import gradio

    return gradio


def test_every_number_has_the_label_and_bounds_of_the_request(gradio):
    from webui.form import AUTOMATIC, component, field_schema

    for field in FIELDS:
        schema = field_schema(field)
        control = component(field, tab="t")
        assert control.label == schema["title"]
        assert control.elem_id == f"t_{field}"
        if schema.get("type") in {"integer", "number"} and field not in AUTOMATIC:
            assert (control.minimum, control.maximum) == (schema["minimum"], schema["maximum"])


def test_components_of_a_request_give_the_request_back(gradio):
    from webui.form import component, to_components, to_request

    request = parse_request(
        {
            "prompt": "a fox", "prompt_clip_l": "a dog", "clip_skip": 2, "width": 512, "height": 768, "steps": 12,
            "sampler": "euler", "schedule": "karras", "shift": 3.0, "cfg_scale": 4.5, "seed": 2**53 - 1,
            "original_width": 640, "target_height": 0, "masked_content": "fill", "denoise": 0.0,
            "exact_steps": True, "vae": "",
        }
    )  # fmt: skip
    names = [name for name in FIELDS if name not in {"init_image", "mask"}]
    controls = {name: component(name) for name in names}
    shown = to_components(request_to_json(request), controls)
    values = {name: shown.get(control, control.value) for name, control in controls.items()}
    assert parse_request(to_request(values)) == request


def test_box_that_may_stay_empty_is_empty_at_first_and_takes_a_number():
    from webui.form import component, to_request

    assert component("clip_skip").value == ""
    assert to_request({"clip_skip": "2", "original_width": ""}) == {"clip_skip": 2}
    with pytest.raises(BadRequest, match="Clip skip"):
        parse_request(to_request({"clip_skip": "two"}))


def test_emptied_boxes_mean_the_default_and_whole_floats_are_whole_numbers():
    from webui.form import to_request

    assert to_request({"seed": None, "prompt_t5": "", "vae": "", "steps": 20.0, "clip_skip": None}) == {
        "vae": "",
        "steps": 20,
    }


@pytest.mark.parametrize(
    "bad",
    [{"steps": 10**9}, {"steps": 2.5}, {"cfg_scale": "x"}, {"seed": float("nan")}, {"emphasis": "loud"}, {"wrong": 1},
     {"prompt": "x" * 100_001}, {"use_t5": "yes"}],
)  # fmt: skip
def test_what_the_request_refuses_is_never_shown(bad):
    from webui.form import component, to_components

    controls = {name: component(name) for name in FIELDS}
    assert to_components(bad, controls) == {}


def test_fields_of_another_family_are_not_sent():
    from webui.form import for_family

    fields = {"prompt": "a", "shift": 3.0, "use_t5": False, "crop_left": 8}
    assert for_family(fields, "sdxl") == {"prompt": "a", "crop_left": 8}
    assert for_family(fields, "sd3") == {"prompt": "a", "shift": 3.0, "use_t5": False}


def test_a_choice_that_may_stay_empty_can_be_emptied_again():
    from webui.form import component, to_components, to_request

    controls = {name: component(name) for name in ("prediction", "zero_terminal_snr")}
    assert [control.value for control in controls.values()] == ["", ""]
    assert to_request({"prediction": "", "zero_terminal_snr": ""}) == {}
    shown = to_components({"prediction": "v", "zero_terminal_snr": False}, controls)
    assert list(shown.values()) == ["v", False]
    shown = to_components({"prediction": None, "zero_terminal_snr": None}, controls)
    assert list(shown.values()) == ["", ""]


def test_help_is_the_requests_own(gradio):
    from webui.form import help_texts

    assert help_texts()["denoise"] == "img2img: 0 keeps the picture, 1 starts anew."
    assert set(help_texts()) <= {*GenerationRequest.__dataclass_fields__}


def test_fields_of_models_with_other_inputs_are_not_sent():
    from webui.form import for_family

    fields = {"prompt": "a", "image_cfg_scale": 2.0, "refiner": "r", "aesthetic_score": 7.0}
    assert for_family(fields, "sdxl", "edit") == fields
    assert "image_cfg_scale" not in for_family(fields, "sdxl")
    assert for_family(fields, "sd3") == {"prompt": "a", "refiner": "r"}
