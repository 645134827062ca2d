"""The plan of a job whose extensions load networks and add branches."""

from __future__ import annotations

import pytest

from backend.engine.engine import Engine
from backend.errors import NotFound
from backend.events import Plan, Planned
from backend.plugins import ExtensionFailed
from backend.request import GenerationRequest
from tests.engine.conftest import ask
from tests.engine.test_extensions import make, panel

__all__ = ["make"]

FORESEEING = """
class Foreseeing(Parameters):
    told: str = text("nothing", label="What is told")

def build(tensors):
    raise AssertionError("a plan loads nothing")

ANSWERS = {
    "nothing": None, "number": 7,
    "gone": Foresight(networks=[NetworkFile("ip_adapter", "gone", build)]),
    "branches": Foresight(branches=[(0.0, 1.0), (0.0, 0.5)]),
}

@hookimpl
def register_panels():
    return [PanelSpec("foreseeing", "Foreseeing", Foreseeing)]

@hookimpl
def foresee_job(job):
    assert job.request.steps and job.request.width
    return ANSWERS[job.values["foreseeing"].told]
"""


def planned(engine: Engine, request: GenerationRequest) -> Plan:
    events: list[object] = []
    engine.generate(request, events.append)
    return next(event.plan for event in events if isinstance(event, Planned))


def test_hook_foresee_job(make, checkpoint) -> None:
    engine = make(foreseeing=FORESEEING)

    def told(answer: str) -> Plan:
        return planned(engine, ask(checkpoint, steps=4, batch_size=2, extensions=panel("foreseeing", 1, told=answer)))

    plain = told("nothing")
    assert plain.model_calls == 4 * 2 * 2
    assert told("branches").model_calls == plain.model_calls + (4 + 2) * 2
    with pytest.raises(ExtensionFailed, match="a int from foresee_job, no Foresight"):
        told("number")
    with pytest.raises(NotFound, match="gone"):
        told("gone")


@pytest.mark.parametrize(
    ("name", "values", "more"),
    [("pag", {}, 4), ("seg", {"end": 0.5}, 2), ("sag", {"start": 0.75}, 1), ("pag", {"scale": 0.0}, 0),
     ("regions", {"mode": "latent"}, 4), ("regions", {"mode": "latent", "until": 0.5}, 2), ("regions", {}, 0)],
)  # fmt: skip
def test_branches_that_shipped_extensions_add_are_in_the_plan(engine, checkpoint, name, values, more) -> None:
    prompt = "a fox BREAK a hen"
    plain = planned(engine, ask(checkpoint, steps=4, prompt="a fox"))
    extended = planned(engine, ask(checkpoint, steps=4, prompt=prompt, extensions=panel(name, 1, **values)))
    assert extended.model_calls == plain.model_calls + more
