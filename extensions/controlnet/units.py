"""A unit as a patch: its network with its hint, in its steps, on its part of the picture."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from backend.api import (
    BadRequest,
    Call,
    Family,
    Guide,
    JobView,
    ModelView,
    NetworkInputs,
    Patch,
    Residual,
    Residuals,
    Scope,
    UNetResiduals,
    check_window,
)
from extensions.controlnet.hints import hint_of, region_of
from extensions.controlnet.parameters import UnitParameters
from extensions.controlnet.strength import leaves_out_uncond, strength_of

FAMILIES: tuple[Family, ...] = ("sdxl", "sd3", "sd1", "sd2")
_CELL = 8  # pixels a latent cell's side


def unit_patches(unit: UnitParameters, label: str, job: JobView, model: ModelView) -> list[Patch]:
    """The patch of a unit; none where it would change nothing.

    Raises:
        BadRequest: something is missing or contradicts itself, or the network does not fit; the unit is named.
    """
    if model.info.family not in FAMILIES:
        job.note(f"{label} guides the checkpoint, not the refiner.")
        return []
    check_window(label, unit.start, unit.end)
    if not unit.network:
        raise BadRequest(
            f"{label} has no network.", "Choose a file of models/controlnet, or switch it off.", field="extensions"
        )
    _, rows, columns = model.latent
    size = (rows * _CELL, columns * _CELL)
    region = region_of(unit, job, model.start, size)
    if unit.weight == 0 or (region is not None and not bool(region.any())):
        job.note(f"{label} changes nothing: its {'weight is 0' if unit.weight == 0 else 'region is empty'}.")
        return []
    scope = Scope(start=unit.start, end=unit.end, region=None if region is None else region.to(model.device))
    if not any(scope.acts_at(step, model.steps) for step in range(model.steps)):
        job.note(f"{label} falls on none of the {model.steps} steps: set From earlier or To later.")
        return []
    control = model.control(unit.network)
    strength = strength_of(unit.weight, unit.mode, is_adapter=control.info.kind == "T2I-Adapter")
    guide = model.guide(control, hint_of(unit, label, job, model.start, size), strength)
    compute = without_uncond(guide) if leaves_out_uncond(unit.mode) else everywhere(guide)
    return [Residuals(compute=compute, scope=scope, label=label, in_tiles=True)]


Compute = Callable[[NetworkInputs, Call], Residual | None]


def everywhere(guide: Guide) -> Compute:
    """On every branch."""
    return lambda inputs, call: guide(*inputs, call.tile)


def without_uncond(guide: Guide) -> Compute:
    """On every branch but the negative prompt's."""

    def compute(inputs: NetworkInputs, call: Call) -> Residual | None:
        if all(branch == "uncond" for branch in call.branches):
            return None
        marks = [0.0 if branch == "uncond" else 1.0 for branch in call.branches for _ in range(call.images)]
        return _by_row(guide(*inputs, call.tile), inputs.x.new_tensor(marks))

    return compute


def _by_row(residual: Residual, marks: Tensor) -> Residual:
    """Each row of the batch times its mark."""

    def times(t: Tensor) -> Tensor:
        return t * marks.view(-1, *[1] * (t.ndim - 1))

    return residual.each(times) if isinstance(residual, UNetResiduals) else [times(t) for t in residual]
