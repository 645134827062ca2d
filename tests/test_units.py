"""Panels of several units: declared once, offered one after another, read as one list in order."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from backend.api import ActionResult, ActionSpec, JobView, PanelSpec, Parameters, number, unit_panels, units_of
from backend.parameters import read_parameters
from backend.request import GenerationRequest


class Edges(Parameters):
    weight: float = number(1.0, low=0.0, high=2.0, label="Weight")


SPEC = PanelSpec("edges", "Edges", Edges, families=("sdxl",), folded=("weight",), help="Lines.")


def job_with(**values: Parameters) -> JobView:
    def nothing(*_: Any) -> Any:
        raise AssertionError("not asked for")

    document = {"panels": [panel.to_json("x") for panel in unit_panels(SPEC)]}
    asked = ("note", "picture", "mask", "store", "own_network", "files", "shapes")
    return JobView(GenerationRequest(), values, registry=document, **dict.fromkeys(asked, nothing))


def test_units_differ_in_name_and_label_and_follow_each_other():
    panels = unit_panels(SPEC, 3)
    assert [(p.name, p.label, p.follows) for p in panels] == [
        ("edges", "Edges", ""),
        ("edges_2", "Edges 2", "edges"),
        ("edges_3", "Edges 3", "edges_2"),
    ]
    assert all(replace(panel, name="edges", label="Edges", follows="") == SPEC for panel in panels)


def test_a_job_uses_units_in_order_whichever_they_are():
    job = job_with(edges_3=Edges(weight=0.3), edges=Edges(weight=0.1), edgeless=Edges(weight=2.0))
    assert units_of(job, "edges", Edges) == [
        ("edges", "Edges", Edges(weight=0.1)),
        ("edges_3", "Edges 3", Edges(weight=0.3)),
    ]
    assert units_of(job_with(), "edges", Edges) == []


@pytest.mark.parametrize("count", [0, 1, 10])
def test_a_number_that_no_page_draws_is_refused(count):
    with pytest.raises(ValueError, match=f"edges has {count} units; 2 to 9 can be drawn"):
        unit_panels(SPEC, count)


def test_actions_belong_to_every_unit_and_are_told_theirs():
    def run(job: JobView) -> ActionResult:
        return ActionResult(text=next(u.label for u in units_of(job, "edges", Edges) if u.panel == job.panel))

    panels = unit_panels(replace(SPEC, actions=(ActionSpec("show", "Show", run),)))
    job = replace(job_with(edges=Edges(), edges_2=Edges()), panel="edges_2")
    assert [panel.actions[0].run(job).text for panel in panels] == ["Edges 2"] * 3


@pytest.mark.parametrize(("name", "labels"), [
    ("controlnet", ["ControlNet", "ControlNet 2", "ControlNet 3"]),
    ("ip_adapter", ["IP-Adapter", "IP-Adapter 2", "IP-Adapter 3"]),
])  # fmt: skip
def test_the_shipped_units_are_called_in_metadata_as_they_always_were(name, labels):
    from importlib import import_module

    panels = import_module(f"extensions.{name}.hooks").register_panels()
    assert [panel.name for panel in panels] == [name, f"{name}_2", f"{name}_3"]
    assert [panel.label for panel in panels] == labels
    old = {"version": 1, "values": {"weight": 0.5, "start": 0.1, "end": 0.9, "region": ""}}
    for panel in panels:
        assert read_parameters(panel.parameters, panel.label, old).model_dump()["weight"] == 0.5
