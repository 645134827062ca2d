"""What is on and does nothing is told: a panel's switch alone changes no picture."""

from __future__ import annotations

from collections.abc import Iterator

from backend.api import JobView, ModelView, Parameters, Scope
from extensions.guidance.apg import ApgParameters
from extensions.guidance.cfg_zero import CfgZeroParameters
from extensions.guidance.thresholding import ThresholdingParameters


def idle(job: JobView, model: ModelView, labels: dict[str, str]) -> Iterator[str]:
    """A sentence for each panel of ``labels`` that is on and cannot act with this request's CFG scale or steps."""
    cfg = job.request.cfg_scale or 1.0
    for name, label in labels.items():
        values = job.values.get(name)
        if values is None:
            continue
        if _needs_cfg(values) and cfg == 1:
            yield f"{label} changes nothing: CFG scale 1 turns guidance by the negative prompt off."
        elif isinstance(values, ThresholdingParameters) and values.mimic_scale >= cfg:
            yield f"{label} changes nothing: its mimic scale {values.mimic_scale:g} is not below the CFG scale {cfg:g}."
        elif not _acts(values, model.steps):
            yield f"{label} falls on none of the {model.steps} steps: set From earlier or To later."


def _needs_cfg(values: Parameters) -> bool:
    if isinstance(values, CfgZeroParameters):
        return not values.zero_steps
    return isinstance(values, ApgParameters | ThresholdingParameters)


def _acts(values: Parameters, steps: int) -> bool:
    window = Scope(start=getattr(values, "start", 0.0), end=getattr(values, "end", 1.0))
    return any(window.acts_at(step, steps) for step in range(steps))
