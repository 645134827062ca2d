"""CLIP encoders run on one prompt: the two that SDXL and SD3 share, or one."""

from __future__ import annotations

from typing import NamedTuple, cast

from torch import Tensor
from transformers.models.clip.modeling_clip import CLIPTextModelWithProjection

from backend.errors import ModelUnsupported
from backend.families.base import Models, Prompts, joined_clip
from backend.formats.configs import CheckpointInfo, CLIPConfig, Part
from backend.formats.constants import CLIP_SKIP
from backend.request import GenerationRequest
from backend.text.encode import ClipFeatures, encode_clip
from backend.text.prompt import ParsedPrompt
from backend.text.tokenize import clip_tokenizer

_EMPTY = ParsedPrompt(((),))


class ClipPair(NamedTuple):
    """Tokens of both encoders side by side, (1, T, D_l + D_g), and what each gives for the pooled vector."""

    tokens: Tensor
    clip_l: ClipFeatures
    clip_g: ClipFeatures


def encode_clip_pair(models: Models, info: CheckpointInfo, request: GenerationRequest, prompts: Prompts) -> ClipPair:
    """Run CLIP-L and CLIP-G on their prompts, at the request's layer and emphasis."""
    clip_l = encode_one_clip(models, info, request, "clip_l", prompts["clip_l"])
    clip_g = encode_one_clip(models, info, request, "clip_g", prompts["clip_g"])
    empty_l = empty_g = None
    if clip_l.hidden.shape[1] != clip_g.hidden.shape[1]:
        empty_l = encode_one_clip(models, info, request, "clip_l", _EMPTY).hidden
        empty_g = encode_one_clip(models, info, request, "clip_g", _EMPTY).hidden
    return ClipPair(joined_clip(clip_l, clip_g, empty_l, empty_g), clip_l, clip_g)


def encode_one_clip(
    models: Models,
    info: CheckpointInfo,
    request: GenerationRequest,
    part: Part,
    prompt: ParsedPrompt,
    *,
    final_norm: bool = False,
) -> ClipFeatures:
    """Run one CLIP encoder on its prompt, at the request's layer (the family's where it is open) and emphasis."""
    config = cast("CLIPConfig | None", getattr(info, part))
    if config is None:
        raise ModelUnsupported(f"{info.path.name} has no text encoder {part}.", field="checkpoint")
    return encode_clip(
        cast("CLIPTextModelWithProjection", models[part]),
        clip_tokenizer(info, part),
        config,
        prompt,
        clip_skip=request.clip_skip or CLIP_SKIP[info.family],
        final_norm=final_norm,
        emphasis=request.emphasis,
    )
