"""The Preview button: the hint of the page's fields, before any job."""

from __future__ import annotations

import numpy as np
import pytest

from backend.engine.actions import run_action
from backend.errors import BadRequest
from backend.request import GenerationRequest
from extensions.controlnet.hints import pixels
from extensions.controlnet.preprocessors.canny import CannyParameters, canny
from tests.engine.conftest import SIZE, ask, mask_bytes


def preview(engine, request: GenerationRequest, panel: str = "controlnet"):
    done = run_action(engine.extensions, engine.inputs, panel, "preview", request)
    assert done.picture is not None
    return np.asarray(engine.inputs.load(done.picture)), done.text


def unit(**values: object) -> dict[str, object]:
    return {"controlnet": {"values": {"preprocessor": "canny"} | values}}


def test_the_preview_is_what_the_preprocessor_draws(engine, picture):
    shown, words = preview(engine, ask("tiny-xl", extensions=unit(picture=picture, options={"low": 20, "high": 40})))
    drawn = canny(pixels(engine.inputs.load(picture)), CannyParameters(low=20, high=40))
    assert np.array_equal(shown[:, :, 0], drawn[0].numpy().astype(np.uint8) * 255)
    assert words == "64 × 64 pixels, shows lines."


def test_the_preview_has_the_size_that_would_be_made(engine, picture):
    shown, _ = preview(engine, ask("tiny-xl", width=128, height=64, extensions=unit(picture=picture)))
    assert shown.shape == (64, 128, 3)
    wanted = engine.catalog.checkpoint("tiny-sd3").defaults
    shown, _ = preview(engine, ask("tiny-sd3", width=None, height=None, extensions=unit(picture=picture)))
    assert shown.shape == (wanted.height, wanted.width, 3)


def test_without_a_picture_of_its_own_the_init_image_and_its_mask_are_shown(engine, picture):
    mask = engine.inputs.store(mask_bytes((0, 0, SIZE // 2, SIZE))).sha256
    fields = {"init_image": picture, "mask": mask, "inpaint_area": "only masked"}
    shown, words = preview(engine, ask("tiny-xl", extensions=unit(preprocessor="inpaint"), **fields))
    assert (shown[:, : SIZE // 2] == 0).all()
    assert np.array_equal(shown[:, SIZE // 2 :], np.asarray(engine.inputs.load(picture))[:, SIZE // 2 :])
    assert "masked area of it alone" in words
    with pytest.raises(BadRequest, match="ControlNet has no picture"):
        preview(engine, ask("tiny-xl", extensions=unit()))


def test_each_units_button_shows_its_own_hint(engine, picture):
    both = unit(picture=picture) | {"controlnet_2": {"values": {"preprocessor": "invert", "picture": picture}}}
    first, _ = preview(engine, ask("tiny-xl", extensions=both))
    second, _ = preview(engine, ask("tiny-xl", extensions=both), "controlnet_2")
    assert np.array_equal(first, preview(engine, ask("tiny-xl", extensions=unit(picture=picture)))[0])
    assert np.array_equal(second, 255 - np.asarray(engine.inputs.load(picture)))
    with pytest.raises(BadRequest, match="ControlNet 3 has no picture"):
        preview(engine, ask("tiny-xl", extensions=both), "controlnet_3")
