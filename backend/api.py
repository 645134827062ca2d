"""Everything that the engine side of an extension may import; names here stay what they are through API 1.

An extension's engine module imports this module and nothing else of Easel. Its hooks are described in
``backend.hookspecs``.
"""

from __future__ import annotations

from backend.diffusion.noise import NoiseSource
from backend.diffusion.prediction import Prediction
from backend.diffusion.samplers.spec import (
    Denoiser,
    OnStep,
    SamplerSpec,
    StepState,
    deterministic,
    intervals,
    stochastic,
)
from backend.diffusion.schedules import ScheduleSpec
from backend.errors import BadRequest, UserError
from backend.extending import JobView, PanelSpec, Runner
from backend.hookspecs import hookimpl
from backend.manifest import API_VERSION
from backend.parameters import Parameters, choice, flag, number, text, whole
from backend.request import GenerationRequest

__all__ = [
    "API_VERSION",
    "BadRequest",
    "Denoiser",
    "GenerationRequest",
    "JobView",
    "NoiseSource",
    "OnStep",
    "PanelSpec",
    "Parameters",
    "Prediction",
    "Runner",
    "SamplerSpec",
    "ScheduleSpec",
    "StepState",
    "UserError",
    "choice",
    "deterministic",
    "flag",
    "hookimpl",
    "intervals",
    "number",
    "stochastic",
    "text",
    "whole",
]
