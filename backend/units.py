"""Units: several panels of one kind, offered one after another, which an extension declares and reads as one list."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Generic, NamedTuple, TypeVar

from backend.extending import JobView, PanelSpec
from backend.parameters import Parameters

MOST_UNITS = 9
P = TypeVar("P", bound=Parameters)


class Unit(NamedTuple, Generic[P]):
    """A unit that a job uses: the name and label of its panel, and what is set there."""

    panel: str
    label: str
    values: P


def unit_panels(spec: PanelSpec, count: int = 3) -> list[PanelSpec]:
    """Panels like ``spec`` for several units: "edges", "edges_2", "edges_3".

    Each is offered once the one before is used; their values are ``units_of(job, "edges", Edges)``.

    Raises:
        ValueError: less than two, or more than nine.
    """
    if not 2 <= count <= MOST_UNITS:
        raise ValueError(f"{spec.name} has {count} units; 2 to {MOST_UNITS} can be drawn")
    names = [spec.name, *(f"{spec.name}_{number}" for number in range(2, count + 1))]
    labels = [spec.label, *(f"{spec.label} {number}" for number in range(2, count + 1))]
    before = ["" if not number else names[number - 1] for number in range(count)]
    return [
        replace(spec, name=name, label=label, follows=former or spec.follows)
        for name, label, former in zip(names, labels, before, strict=True)
    ]


def units_of(job: JobView, name: str, kind: type[P]) -> list[Unit[P]]:
    """The units of ``unit_panels`` that the job uses, in order; ``name`` and ``kind`` are the first panel's."""
    return list(_units(job, name, kind))


def _units(job: JobView, name: str, kind: type[P]) -> Iterator[Unit[P]]:
    labels = {panel["name"]: panel["label"] for panel in job.registry.get("panels", ())}
    for panel in (name, *(f"{name}_{number}" for number in range(2, MOST_UNITS + 1))):
        values = job.values.get(panel)
        if isinstance(values, kind):
            yield Unit(panel, labels.get(panel, panel), values)
