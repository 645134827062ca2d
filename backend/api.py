"""Everything that the engine side of an extension may import; names here stay what they are through API 1.

An extension's engine module imports this module and nothing else of Easel. Its hooks are described in
``backend.hookspecs``.
"""

from __future__ import annotations

from backend.adapters.foreign import AdapterFormatSpec, AdapterModule
from backend.control.guide import Guide, HintPicture
from backend.control.hints import latent_hint, latent_rule, pixel_hint
from backend.control.load import Control
from backend.control.preprocessing import HintKind, NoParameters, PreprocessorSpec
from backend.diffusion.boxes import box_region
from backend.diffusion.conditioning import Conditioning, ScheduledConditioning
from backend.diffusion.noise import NoiseSource
from backend.diffusion.patched import region_tokens, token_grid
from backend.diffusion.patching import (
    QKV,
    AddBranch,
    AfterGuidance,
    AttentionBias,
    AttentionInput,
    AttentionOutput,
    AttentionReplace,
    BeforeGuidance,
    BlockInput,
    BlockOutput,
    BlockReplace,
    BlockState,
    Call,
    ChangeConditioning,
    CombineGuidance,
    ModelCall,
    NetworkInputs,
    Outputs,
    Patch,
    PatchRefused,
    Place,
    Residuals,
    Scope,
    SkipBlock,
    StepMask,
    VaeDecode,
    VaeEncode,
)
from backend.diffusion.prediction import Prediction
from backend.diffusion.residuals import Residual, UNetResiduals
from backend.diffusion.samplers.spec import (
    Branches,
    Denoiser,
    OnStep,
    SamplerSpec,
    StepState,
    deterministic,
    intervals,
    stochastic,
)
from backend.diffusion.schedules import ScheduleSpec
from backend.errors import BadRequest, ModelUnsupported, NotFound, UserError, unknown_name
from backend.extending import (
    ActionResult,
    ActionSpec,
    AdapterChoice,
    Expanded,
    Family,
    JobView,
    ModelView,
    PanelSpec,
    Runner,
    StartPicture,
    without_panel,
)
from backend.hookspecs import hookimpl
from backend.manifest import API_VERSION
from backend.parameters import (
    Options,
    Parameters,
    axis,
    choice,
    file,
    flag,
    number,
    options,
    picture,
    registered,
    text,
    whole,
)
from backend.records.axes import Axis, axis_names, cells_of, read_axis
from backend.records.panel_text import PanelText, TextKey
from backend.records.tags import PROMPTS, PromptTag, PromptTagSpec
from backend.request import GenerationRequest

__all__ = [
    "API_VERSION",
    "PROMPTS",
    "QKV",
    "ActionResult",
    "ActionSpec",
    "AdapterChoice",
    "AdapterFormatSpec",
    "AdapterModule",
    "AddBranch",
    "AfterGuidance",
    "AttentionBias",
    "AttentionInput",
    "AttentionOutput",
    "AttentionReplace",
    "Axis",
    "BadRequest",
    "BeforeGuidance",
    "BlockInput",
    "BlockOutput",
    "BlockReplace",
    "BlockState",
    "Branches",
    "Call",
    "ChangeConditioning",
    "CombineGuidance",
    "Conditioning",
    "Control",
    "Denoiser",
    "Expanded",
    "Family",
    "GenerationRequest",
    "Guide",
    "HintKind",
    "HintPicture",
    "JobView",
    "ModelCall",
    "ModelUnsupported",
    "ModelView",
    "NetworkInputs",
    "NoParameters",
    "NoiseSource",
    "NotFound",
    "OnStep",
    "Options",
    "Outputs",
    "PanelSpec",
    "PanelText",
    "Parameters",
    "Patch",
    "PatchRefused",
    "Place",
    "Prediction",
    "PreprocessorSpec",
    "PromptTag",
    "PromptTagSpec",
    "Residual",
    "Residuals",
    "Runner",
    "SamplerSpec",
    "ScheduleSpec",
    "ScheduledConditioning",
    "Scope",
    "SkipBlock",
    "StartPicture",
    "StepMask",
    "StepState",
    "TextKey",
    "UNetResiduals",
    "UserError",
    "VaeDecode",
    "VaeEncode",
    "axis",
    "axis_names",
    "box_region",
    "cells_of",
    "choice",
    "deterministic",
    "file",
    "flag",
    "hookimpl",
    "intervals",
    "latent_hint",
    "latent_rule",
    "number",
    "options",
    "picture",
    "pixel_hint",
    "read_axis",
    "region_tokens",
    "registered",
    "stochastic",
    "text",
    "token_grid",
    "unknown_name",
    "whole",
    "without_panel",
]
