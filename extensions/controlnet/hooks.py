"""The panels of the units, the preprocessors, and the patches that the units ask for."""

from __future__ import annotations

from collections.abc import Sequence

from backend.api import JobView, ModelView, PanelSpec, Patch, PreprocessorSpec, hookimpl
from extensions.controlnet.a1111 import UNIT_TEXT
from extensions.controlnet.parameters import UnitParameters
from extensions.controlnet.preprocessors.table import PREPROCESSORS
from extensions.controlnet.preview import preview_of
from extensions.controlnet.units import FAMILIES, UNITS, unit_patches


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
            help="Where things are in the picture, from the edges, the depth or the blocks of another one.",
            follows=before,
            actions=(preview_of(name, label),),
            folded=("mode", "resize_mode", "pixel_perfect", "resolution", "region", "shows"),
            text=UNIT_TEXT,
        )
        for (name, label), before in zip(UNITS.items(), followed, strict=False)
    ]


@hookimpl
def register_preprocessors() -> Sequence[PreprocessorSpec]:
    """Those of the README's table."""
    return PREPROCESSORS


@hookimpl
def patch_job(job: JobView, model: ModelView) -> Sequence[Patch]:
    """What the units that are on add to the network."""
    patches: list[Patch] = []
    for name, label in UNITS.items():
        unit = job.values.get(name)
        if isinstance(unit, UnitParameters):
            patches += unit_patches(unit, label, job, model)
    return patches
