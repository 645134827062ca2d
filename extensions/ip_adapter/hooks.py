"""The panels of the units, and the patches that they ask for."""

from __future__ import annotations

from collections.abc import Sequence

from backend.api import JobView, ModelView, PanelSpec, Patch, hookimpl
from extensions.ip_adapter.a1111 import UNIT_TEXT
from extensions.ip_adapter.parameters import UnitParameters
from extensions.ip_adapter.units import FAMILIES, UNITS, unit_patches


@hookimpl
def register_panels() -> Sequence[PanelSpec]:
    """Three units; one is offered once the one before is used."""
    followed = ("", *UNITS)
    return [
        PanelSpec(
            name,
            label,
            UnitParameters,
            families=FAMILIES,
            help="A picture as a prompt: what is in it, or its style.",
            follows=before,
            folded=("vision", "weight_type", "region"),
            text=UNIT_TEXT,
        )
        for (name, label), before in zip(UNITS.items(), followed, strict=False)
    ]


@hookimpl
def patch_job(job: JobView, model: ModelView) -> Sequence[Patch]:
    """What the units that are on add to the attentions."""
    patches: list[Patch] = []
    for name, label in UNITS.items():
        unit = job.values.get(name)
        if isinstance(unit, UnitParameters):
            patches += unit_patches(unit, label, job, model)
    return patches
