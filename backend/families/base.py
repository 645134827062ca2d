"""What every family offers the pipeline, and the prompt handling that all of them share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from backend.diffusion.conditioning import Conditioning, ScheduledConditioning
from backend.diffusion.prediction import Prediction
from backend.errors import ModelUnsupported
from backend.formats.configs import CheckpointInfo, Part
from backend.formats.embeddings import EmbeddingInfo
from backend.request import GenerationRequest
from backend.text.embeddings import NO_WORDS, EmbeddingWords, Reader, embedding_notes, embeddings_in, read_rows
from backend.text.encode import ClipFeatures
from backend.text.prompt import ParsedPrompt, PromptPlan, merge_schedules, parse_prompt
from backend.text.tokenize import clip_tokenizer, t5_tokenizer

Models = Mapping[Part, nn.Module]
Prompts = Mapping[Part, ParsedPrompt]
EncodePoint = Callable[[Prompts], Conditioning]

ENCODER_PROMPTS: dict[Part, str] = {"clip_l": "prompt_clip_l", "clip_g": "prompt_clip_g", "t5": "prompt_t5"}

ENCODER_NAMES: Mapping[str, str] = {"clip_l": "CLIP-L", "clip_g": "CLIP-G", "clip_h": "CLIP-H", "t5": "T5"}


class Family(Protocol):
    """Networks, latent format and text stack that belong together; stateless."""

    def prediction(self, info: CheckpointInfo, request: GenerationRequest) -> Prediction:
        """What the denoiser's output means, with the request's shift where there is one."""
        ...

    def text_parts(self, info: CheckpointInfo, request: GenerationRequest) -> tuple[Part, ...]:
        """The encoders that this request needs.

        Raises:
            ModelUnsupported: if the checkpoint lacks one of them.
        """
        ...

    def encode(
        self, models: Models, info: CheckpointInfo, request: GenerationRequest, prompts: Prompts, *, negative: bool
    ) -> Conditioning:
        """One prompt (per encoder) as conditioning of batch 1, float32, on the encoders' device."""
        ...


def require_parts(info: CheckpointInfo, parts: tuple[Part, ...]) -> tuple[Part, ...]:
    """``parts`` if the checkpoint has them all.

    Raises:
        ModelUnsupported: naming what is missing, or why this version does not run the file.
    """
    if info.refusal:
        raise ModelUnsupported(info.refusal, "Choose another checkpoint.", field="checkpoint")
    missing = [part for part in parts if part not in info.sources]
    if missing:
        names = ", ".join(ENCODER_NAMES.get(part, part) for part in missing)
        raise ModelUnsupported(
            f"{info.path.name} holds no {names}, which a prompt needs.",
            "Choose a checkpoint that includes its text encoders.",
            field="checkpoint",
        )
    return parts


def plan_prompts(
    request: GenerationRequest,
    parts: tuple[Part, ...],
    steps: int,
    *,
    negative: bool,
    words: EmbeddingWords = NO_WORDS,
) -> dict[Part, PromptPlan]:
    """The prompt of each encoder over the steps; a field for one encoder replaces the prompt there.

    The negative prompt is one for all encoders, and AND is an ordinary word in it.

    Args:
        words: embeddings that the prompts may name.
    """
    if negative:
        plan = words.in_plan(parse_prompt(request.negative_prompt, steps, compose=False))
        return dict.fromkeys(parts, plan)
    main = words.in_plan(parse_prompt(request.prompt, steps))
    plans: dict[Part, PromptPlan] = {}
    for part in parts:
        own = getattr(request, ENCODER_PROMPTS[part]) if part in ENCODER_PROMPTS else None
        plans[part] = main if own is None else words.in_plan(parse_prompt(own, steps, compose=False))
    return plans


def read_embeddings(
    info: CheckpointInfo, *plans: Mapping[Part, PromptPlan]
) -> tuple[tuple[EmbeddingInfo, ...], tuple[str, ...]]:
    """The embeddings in prompts that some encoder reads as such, and sentences on those that some encoder cannot."""
    readers: dict[Part, Reader] = {
        part: t5_tokenizer(info) if part == "t5" else clip_tokenizer(info, part) for part in plans[0]
    }
    named: dict[Part, Sequence[EmbeddingInfo]] = {
        part: embeddings_in(prompt for each in plans for prompt in each[part].prompts) for part in readers
    }
    read = [
        embedding
        for part, reader in readers.items()
        for embedding in named[part]
        if read_rows(embedding, reader) is not None
    ]
    return tuple(dict.fromkeys(read)), embedding_notes(info.name, named, readers)


def schedule_conditioning(plans: Mapping[Part, PromptPlan], encode: EncodePoint) -> list[ScheduledConditioning]:
    """Encode every different prompt once and lay the results out over the steps, one entry for each AND part."""
    parts = tuple(plans)
    longest = max(plans.values(), key=lambda plan: len(plan.parts))
    known: dict[tuple[ParsedPrompt, ...], Conditioning] = {}
    composed: list[ScheduledConditioning] = []
    for index, joined in enumerate(longest.parts):
        schedules = [plans[part].parts[index if index < len(plans[part].parts) else 0].schedule for part in parts]
        segments: list[tuple[int, Conditioning]] = []
        for until, prompts in merge_schedules(*schedules):
            if prompts not in known:
                known[prompts] = encode(dict(zip(parts, prompts, strict=True)))
            segments.append((until, known[prompts]))
        composed.append(ScheduledConditioning(tuple(segments), joined.weight))
    return composed


def joined_clip(clip_l: ClipFeatures, clip_g: ClipFeatures, empty_l: Tensor | None, empty_g: Tensor | None) -> Tensor:
    """CLIP-L's and CLIP-G's tokens side by side, (1, T, D_l + D_g).

    Prompts of their own may need different numbers of chunks: the shorter one goes on with the empty prompt's
    chunk ``empty_*`` (1, 77, D).
    """
    left, right = clip_l.hidden, clip_g.hidden
    while left.shape[1] < right.shape[1] and empty_l is not None:
        left = torch.cat([left, empty_l], dim=1)
    while right.shape[1] < left.shape[1] and empty_g is not None:
        right = torch.cat([right, empty_g], dim=1)
    return torch.cat([left, right], dim=-1)
