"""The panels of the units, and the patches that they ask for."""

from __future__ import annotations

from collections.abc import Sequence

from backend.api import (
    Foresight,
    JobView,
    ModelView,
    NetworkFile,
    PanelSpec,
    Patch,
    hookimpl,
    unit_panels,
    units_of,
)
from extensions.ip_adapter.a1111 import UNIT_TEXT
from extensions.ip_adapter.parameters import PANEL, UnitParameters
from extensions.ip_adapter.units import FAMILIES, foreseen_networks, unit_patches


@hookimpl
def register_panels() -> Sequence[PanelSpec]:
    """Three units."""
    return unit_panels(
        PanelSpec(
            PANEL,
            "IP-Adapter",
            UnitParameters,
            families=FAMILIES,
            help="A picture as a prompt: what is in it, or its style.",
            folded=("vision", "weight_type", "region"),
            text=UNIT_TEXT,
        )
    )


@hookimpl
def foresee_job(job: JobView) -> Foresight:
    """The adapters and vision encoders of the units that are on."""
    networks: list[NetworkFile] = []
    for unit in units_of(job, PANEL, UnitParameters):
        if unit.values.adapter and unit.values.weight:
            networks += foreseen_networks(unit.values, unit.label, job)
    return Foresight(networks=networks)


@hookimpl
def patch_job(job: JobView, model: ModelView) -> Sequence[Patch]:
    """What the units that are on add to the attentions."""
    patches: list[Patch] = []
    for unit in units_of(job, PANEL, UnitParameters):
        patches += unit_patches(unit.values, unit.label, job, model)
    return patches
