"""Guidance networks in the precisions and ways of keeping weights that an engine can have."""

from __future__ import annotations

import numpy as np
import pytest

from backend.engine.engine import Engine
from backend.settings import load_settings
from extensions.controlnet.tests.test_units import guided, pixels
from tests.engine.conftest import SIZE, ask, encoded
from tests.families.running import colours

KINDS = [("tiny-xl", "edges-xl"), ("tiny-xl", "control-lora"), ("tiny-xl", "union"), ("tiny-xl", "t2i"),
         ("tiny-sd3", "joint"), ("tiny-sd3", "canny-8b"), ("tiny-sd3", "canny-2b")]  # fmt: skip


@pytest.fixture(scope="module", params=[{"dtype": "bfloat16"}, {"low_memory": "on"}], ids=["bfloat16", "low memory"])
def frugal(request, engine, tmp_path_factory) -> Engine:
    settings = {"data_dir": tmp_path_factory.mktemp("frugal"), "models_dir": engine.settings.models_dir}
    return Engine(load_settings(device="cpu", **settings, **request.param))


@pytest.mark.parametrize(("checkpoint", "network"), KINDS)
def test_every_kind_of_network_works_in_it(frugal, checkpoint, network):
    picture = frugal.inputs.store(encoded(colours(SIZE, SIZE))).sha256
    plain = pixels(frugal, ask(checkpoint))
    one = pixels(frugal, guided(checkpoint, network, picture, weight=0.5))
    assert (one != plain).any()
    assert np.array_equal(pixels(frugal, guided(checkpoint, network, picture, weight=0.5)), one)
    assert np.array_equal(pixels(frugal, ask(checkpoint)), plain)
