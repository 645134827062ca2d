"""The panels of the units, the preprocessors, and the patches that the units ask for."""

from __future__ import annotations

from collections.abc import Sequence

from backend.api import (
    Foresight,
    JobView,
    ModelView,
    NetworkFile,
    PanelSpec,
    Patch,
    PreprocessorSpec,
    hookimpl,
    unit_panels,
    units_of,
)
from extensions.controlnet.a1111 import UNIT_TEXT
from extensions.controlnet.parameters import PANEL, UnitParameters
from extensions.controlnet.preprocessors.table import PREPROCESSORS
from extensions.controlnet.preview import PREVIEW
from extensions.controlnet.units import FAMILIES, unit_patches


@hookimpl
def register_panels() -> Sequence[PanelSpec]:
    """Three units."""
    return unit_panels(
        PanelSpec(
            PANEL,
            "ControlNet",
            UnitParameters,
            families=FAMILIES,
            help="Where things are in the picture, from the edges, the depth or the blocks of another one.",
            actions=(PREVIEW,),
            folded=("mode", "resize_mode", "pixel_perfect", "resolution", "region", "shows"),
            text=UNIT_TEXT,
        )
    )


@hookimpl
def register_preprocessors() -> Sequence[PreprocessorSpec]:
    """Those of the README's table."""
    return PREPROCESSORS


@hookimpl
def foresee_job(job: JobView) -> Foresight:
    """The networks of the preprocessors that the units name; their own, of models/controlnet, the engine knows."""
    networks: list[NetworkFile] = []
    for unit in units_of(job, PANEL, UnitParameters):
        if unit.values.weight and (spec := job.preprocessors.get(unit.values.preprocessor)):
            networks += spec.weights(spec.read(unit.values.options))
    return Foresight(networks=networks)


@hookimpl
def patch_job(job: JobView, model: ModelView) -> Sequence[Patch]:
    """What the units that are on add to the network."""
    patches: list[Patch] = []
    for unit in units_of(job, PANEL, UnitParameters):
        patches += unit_patches(unit.values, unit.label, job, model)
    return patches
