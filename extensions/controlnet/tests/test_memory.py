"""Guidance networks as residents: told in the plan, loaded once, and the denoiser that they guide stays beside them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from torch import nn

from backend.engine.engine import Engine
from backend.events import Planned
from backend.settings import load_settings
from extensions.controlnet.tests.test_units import guided
from tests.engine.conftest import SIZE, ask, encoded
from tests.families.running import colours


@pytest.fixture
def fresh(engine, tmp_path) -> Engine:
    """An engine with nothing in memory."""
    return Engine(load_settings(data_dir=tmp_path, models_dir=engine.settings.models_dir, device="cpu"))


def planned(engine: Engine, request) -> Planned:
    events: list[object] = []
    engine.generate(request, events.append)
    return next(event for event in events if isinstance(event, Planned))


def test_the_plan_tells_of_the_network_and_it_is_loaded_once(fresh):
    picture = fresh.inputs.store(encoded(colours(SIZE, SIZE))).sha256
    without = planned(fresh, ask("tiny-xl")).plan
    first = planned(fresh, guided("tiny-xl", "edges-xl", picture)).plan
    assert [part for part in first.loads if "edges-xl" in part] == list(first.loads)
    assert first.needs_bytes > without.needs_bytes
    assert planned(fresh, guided("tiny-xl", "edges-xl", picture, weight=0.5)).plan.loads == ()
    assert [key.name for key in fresh.manager.residents].count("edges-xl.safetensors") == 1


def test_a_network_never_takes_the_place_of_the_denoiser_that_it_guides(fresh):
    """Of a budget that both exceed, too: what is at work cannot be let go of."""
    info = fresh.catalog.checkpoint("tiny-xl")
    fresh.manager.get(info, "clip_g")
    fresh.manager.denoiser(info)
    denoiser = fresh.manager.key(info, "denoiser")
    fresh.manager.policy = replace(fresh.manager.policy, budget_bytes=denoiser.bytes + 1)
    path = fresh.catalog.control("edges-xl").path
    fresh.manager.network(path, "control", lambda: nn.Linear(1, 1), beside=[denoiser])
    assert {key.part for key in fresh.manager.residents} == {"denoiser", "network"}
