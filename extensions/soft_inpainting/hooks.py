"""The panel and its patch."""

from __future__ import annotations

from collections.abc import Sequence

from backend.api import JobView, ModelView, PanelSpec, Patch, hookimpl
from extensions.soft_inpainting.differential import SoftParameters, soft_patches


@hookimpl
def register_panels() -> Sequence[PanelSpec]:
    """One panel, on the inpaint tab."""
    return [
        PanelSpec(
            "soft_inpainting",
            "Soft inpainting",
            SoftParameters,
            tabs=("inpaint",),
            help="Grey places of the mask, such as its blurred edge, change by degrees instead of all or nothing.",
        )
    ]


@hookimpl
def patch_job(job: JobView, model: ModelView) -> Sequence[Patch]:
    """The mask of each step."""
    del model
    values = job.values.get("soft_inpainting")
    return soft_patches(values) if isinstance(values, SoftParameters) else []
