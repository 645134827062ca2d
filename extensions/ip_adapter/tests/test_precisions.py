"""Adapters in the precisions and ways of keeping weights that an engine can have."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from backend.engine.engine import Engine
from backend.settings import load_settings
from extensions.ip_adapter.attention import unweighted
from extensions.ip_adapter.tests.conftest import shown
from extensions.ip_adapter.tests.test_units import EVERY, pixels, prompted
from tests.engine.conftest import ask, encoded


@pytest.fixture(scope="module", params=[{"dtype": "bfloat16"}, {"low_memory": "on"}], ids=["bfloat16", "low memory"])
def frugal(request, engine, tmp_path_factory) -> Engine:
    settings = {"data_dir": tmp_path_factory.mktemp("frugal"), "models_dir": engine.settings.models_dir}
    return Engine(load_settings(device="cpu", **settings, **request.param))


@pytest.mark.parametrize(("checkpoint", "adapter"), EVERY)
def test_every_kind_of_adapter_works_in_it(frugal, checkpoint, adapter):
    picture = frugal.inputs.store(encoded(shown())).sha256
    plain = pixels(frugal, ask(checkpoint))
    one = pixels(frugal, prompted(checkpoint, adapter, picture))
    assert (one != plain).any()
    assert np.array_equal(pixels(frugal, prompted(checkpoint, adapter, picture)), one)
    assert np.array_equal(pixels(frugal, ask(checkpoint)), plain)


def test_a_norms_weight_is_taken_back_also_where_it_is_0():
    """Then the component is lost, and the rest is as it was."""
    x, weight = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([2.0, 0.5, -1.0, 0.0])
    back = unweighted(x * weight, weight)
    assert torch.equal(back[..., :3], x[..., :3])
    assert not back[..., 3].any()
