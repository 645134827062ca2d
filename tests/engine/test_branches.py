"""Branches that a request adds to a step, on tiny random checkpoints: what they change and cost, who refuses them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from backend.engine.engine import Engine
from backend.errors import BadRequest
from backend.records.metadata import parse_parameters, read_picture
from backend.records.outputs import Outputs
from backend.request import parse_request
from tests.engine.conftest import ask

SKIPPING = {"skip_layers": "1", "skip_layer_scale": 2.5, "skip_layer_start": 0.0, "skip_layer_end": 0.8}


def test_a_picture_with_skipped_layers_is_made_again_from_its_metadata(engine: Engine, tmp_path: Path) -> None:
    request = ask("tiny-sd3", steps=4, **SKIPPING)
    first = engine.generate(request, outputs=Outputs(tmp_path)).pictures[0]
    assert first.path is not None
    info = read_picture(first.path.read_bytes())
    assert info.request is not None
    assert {name: info.request[name] for name in SKIPPING} == SKIPPING
    again = engine.generate(parse_request(info.request)).pictures[0]
    assert (np.asarray(again.image) == np.asarray(first.image)).all()
    plain = engine.generate(ask("tiny-sd3", steps=4)).pictures[0]
    assert (np.asarray(plain.image) != np.asarray(first.image)).any()
    text = parse_parameters(first.parameters)
    assert {name: text[name] for name in SKIPPING} == SKIPPING


def test_a_scale_of_0_is_off_to_the_bit_whatever_the_layers(engine: Engine, checkpoint: str) -> None:
    off = engine.generate(ask(checkpoint, **SKIPPING | {"skip_layer_scale": 0.0})).pictures[0]
    plain = engine.generate(ask(checkpoint)).pictures[0]
    assert (np.asarray(off.image) == np.asarray(plain.image)).all()


@pytest.mark.parametrize(
    ("fields", "calls"),
    [({}, 11), ({"cfg_scale": 1.0}, 7), ({"prompt": "a AND b"}, 18), ({"skip_layer_scale": 0.0}, 8)],
)
def test_the_plan_counts_the_calls_of_skipped_layers(engine: Engine, fields: dict[str, object], calls: int) -> None:
    """Of four steps the second, third and fourth lie between 0 and 0.8."""
    assert engine.generate(ask("tiny-sd3", steps=4, **SKIPPING | fields)).plan.model_calls == calls


def test_both_ways_of_batching_agree_with_skipped_layers(engine: Engine) -> None:
    other = Engine(engine.settings.model_copy(update={"guidance_batching": "two passes"}))
    request = ask("tiny-sd3", steps=4, **SKIPPING)
    one, two = (np.asarray(each.generate(request).pictures[0].image, np.int16) for each in (engine, other))
    assert np.abs(one - two).max() <= 1


def test_a_u_net_refuses_skipped_layers_by_name(engine: Engine) -> None:
    with pytest.raises(BadRequest, match=r"tiny-xl .* is a U-Net") as caught:
        engine.generate(ask("tiny-xl", **SKIPPING))
    assert caught.value.field == "skip_layer_scale"


def test_skipped_layers_that_fall_on_no_step_are_said(engine: Engine) -> None:
    def notes(**fields: object) -> str:
        return " ".join(engine.generate(ask("tiny-sd3", **SKIPPING | fields)).notes)

    assert "falls on none of the 3 steps" in notes(steps=3, skip_layer_start=0.01, skip_layer_end=0.2)
    assert "falls on none" not in notes(steps=3)
    assert "falls on none" not in notes(steps=3, skip_layer_scale=0.0, skip_layer_end=0.2)
