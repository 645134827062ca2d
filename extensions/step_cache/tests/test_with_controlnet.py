"""The step cache beside guidance networks, whose residuals still meet the blocks that do not run."""

from __future__ import annotations

import numpy as np
import pytest

from extensions.controlnet.tests.conftest import engine as guided_engine
from extensions.controlnet.tests.conftest import picture
from tests.engine.conftest import ask

__all__ = ["guided_engine", "picture"]


@pytest.fixture(scope="session")
def engine(guided_engine):
    return guided_engine


@pytest.mark.parametrize(
    ("checkpoint", "network"),
    [("tiny-xl", "edges-xl"), ("tiny-xl", "t2i"), ("tiny-sd3", "joint"), ("tiny-sd1", "edges-sd1")],
)
def test_residuals_go_on_where_blocks_do_not_run(engine, picture, checkpoint, network):
    unit = {"controlnet": {"values": {"network": network, "picture": picture, "preprocessor": "canny"}}}
    cache = {"step_cache": {"values": {"interval": 3, "threshold": 2.0}}}
    beside, alone = (engine.generate(ask(checkpoint, steps=6, extensions=given)) for given in (cache | unit, cache))
    skipped = [note for result in (beside, alone) for note in result.notes if "fewer" in note]
    assert len(skipped) == 2, "the guidance network runs in every call and counts as work that was done"
    assert skipped[0] != skipped[1]
    assert (np.asarray(beside.pictures[0].image) != np.asarray(alone.pictures[0].image)).any()
