"""The panels of this extension, and the patches that each of them asks for."""

from __future__ import annotations

from collections.abc import Sequence

from backend.api import JobView, ModelView, PanelSpec, Patch, hookimpl
from extensions.guidance.pag import PagParameters, pag_patches


@hookimpl
def register_panels() -> Sequence[PanelSpec]:
    """Every panel of the README's table."""
    return [
        PanelSpec(
            "pag",
            "Perturbed-attention guidance",
            PagParameters,
            help="Steers away from a picture whose parts do not see each other: better structure, also at CFG 1.",
        ),
    ]


@hookimpl
def patch_job(job: JobView, model: ModelView) -> Sequence[Patch]:
    """Ask each panel that is on."""
    patches: list[Patch] = []
    pag = job.values.get("pag")
    if isinstance(pag, PagParameters):
        patches += pag_patches(pag, model)
    return patches
