"""The prompts of a job as conditioning, kept while they repeat."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import nn

from backend.diffusion.conditioning import Conditioning, ScheduledConditioning
from backend.engine.adapters import text_key
from backend.engine.job import Job
from backend.engine.models import ModelManager
from backend.engine.shares import guidance_of
from backend.families.base import Prompts, plan_prompts, read_embeddings, schedule_conditioning
from backend.formats.configs import Part
from backend.formats.embeddings import EmbeddingInfo
from backend.records.tags import strip_tags
from backend.text.prompt import PromptPlan, parse_prompt
from backend.text.tokenize import Encoder, length_notes


@dataclass(frozen=True)
class Prompting:
    """The prompts of a job as conditioning; ``uncond`` is None where no step needs it.

    ``embeddings``: those that an encoder read; ``refiner``: the prompts as the refiner takes them.
    """

    cond: tuple[ScheduledConditioning, ...]
    uncond: ScheduledConditioning | None
    notes: tuple[str, ...]
    embeddings: tuple[EmbeddingInfo, ...] = ()
    refiner: Prompting | None = None


class PromptCache:
    """The conditioning of the latest prompts, so that a repeated prompt needs no text encoder in memory."""

    def __init__(self, entries: int = 16) -> None:
        self._entries = entries
        self._known: OrderedDict[Hashable, Prompting] = OrderedDict()

    def encode(self, job: Job, manager: ModelManager, steps: int) -> Prompting:
        """Load the text encoders that the request needs and turn its prompts into conditioning, the refiner's too.

        What was made for the same files and the same fields before is given again.
        """
        prompting = self._of_one(job, manager, steps)
        return prompting if job.refiner is None else _with(prompting, self._of_one(job.refiner, manager, steps))

    def holds(self, job: Job, manager: ModelManager, steps: int) -> bool:
        """Whether the prompts of the job's own checkpoint need no encoder."""
        return self._key(job, manager, steps) in self._known

    def _of_one(self, job: Job, manager: ModelManager, steps: int) -> Prompting:
        key = self._key(job, manager, steps)
        prompting = self._known.pop(key, None) or _encode_own(job, manager, steps)
        self._known[key] = prompting
        while len(self._known) > self._entries:
            self._known.popitem(last=False)
        return prompting

    def _key(self, job: Job, manager: ModelManager, steps: int) -> Hashable:
        request = job.spoken
        # Whatever is not read by the encoders is taken out, so that a field that is added counts by itself.
        asked = replace(
            request, seed=0, variation_seed=0, variation_strength=0.0, batch_size=1, batch_count=1, sampler=None,
            schedule=None, shift=None, vae="", prediction=None, zero_terminal_snr=None,
            cfg_rescale=0.0, guidance_start=0.0, guidance_end=1.0,
            skip_layers="", skip_layer_scale=0.0, skip_layer_start=0.0, skip_layer_end=1.0,
            image_cfg_scale=1.0 if request.image_cfg_scale == 1.0 else 2.0, refiner="", refiner_switch=0.0,
            cfg_scale=1.0 if request.cfg_scale == 1.0 else 2.0, init_image=None, denoise=1.0, mask=None, mask_blur=0,
            image_format="png", extensions={},
        )  # fmt: skip
        files = tuple(manager.key(job.info, part) for part in job.family.text_parts(job.info, request))
        return files, asked, steps, job.words.stamp, text_key(job.adapters)


def encode_one(job: Job, manager: ModelManager, prompt: str, *, negative: bool = False) -> Conditioning:
    """One prompt for all encoders, as it stands at the first step; for extensions that need more prompts than two."""
    return encode_steps(job, manager, 1, prompt, negative=negative).at(0)


def encode_steps(
    job: Job, manager: ModelManager, steps: int, prompt: str, *, negative: bool = False
) -> ScheduledConditioning:
    """One prompt for all encoders as it changes over so many steps; what of it is not read is told."""
    parts = job.family.text_parts(job.info, job.request)
    plan = job.words.in_plan(parse_prompt(strip_tags(prompt, job.tags), steps, compose=False))
    for note in (*plan.warnings, *_cut_off(job, dict.fromkeys(parts, plan))):
        job.on_note(note)
    models: dict[Part, nn.Module] = {}

    def encode(prompts: Prompts) -> Conditioning:
        job.check()
        return job.family.encode(models, job.info, job.request, prompts, negative=negative)

    with manager.using(job.use()) as use:
        models |= {part: manager.get(job.info, part, job.adapters, use) for part in parts}
        with torch.inference_mode():
            return schedule_conditioning(dict.fromkeys(parts, plan), encode)[0]


def _encode_own(job: Job, manager: ModelManager, steps: int) -> Prompting:
    request, parts = job.spoken, job.family.text_parts(job.info, job.request)
    positive = plan_prompts(request, parts, steps, negative=False, words=job.words)
    negative = plan_prompts(request, parts, steps, negative=True, words=job.words)
    models: dict[Part, nn.Module] = {}

    def encode(prompts: Prompts, *, negative: bool) -> Conditioning:
        job.check()  # [a|b] over many steps may be hundreds of prompts
        return job.family.encode(models, job.info, request, prompts, negative=negative)

    with manager.using(job.use()) as use:
        for part in parts:
            job.check()
            models[part] = manager.get(job.info, part, job.adapters, use)
        with torch.inference_mode():
            cond = schedule_conditioning(positive, partial(encode, negative=False))
            uncond = None
            if guidance_of(job).needs_negative([part.weight for part in cond]):
                uncond = schedule_conditioning(negative, partial(encode, negative=True))[0]
    warnings = [warning for plan in (*positive.values(), *negative.values()) for warning in plan.warnings]
    too_long = [note for plans in (positive, negative) for note in _cut_off(job, plans)]
    embeddings, unread = read_embeddings(job.info, positive, negative)
    return Prompting(tuple(cond), uncond, tuple(dict.fromkeys([*warnings, *too_long, *unread])), embeddings)


def _with(prompting: Prompting, refiner: Prompting) -> Prompting:
    notes = tuple(dict.fromkeys(prompting.notes + refiner.notes))
    embeddings = tuple(dict.fromkeys(prompting.embeddings + refiner.embeddings))
    return replace(prompting, refiner=refiner, notes=notes, embeddings=embeddings)


def _cut_off(job: Job, plans: Mapping[Part, PromptPlan]) -> Iterator[str]:
    """What encoders do not read of prompts that are too long."""
    for part, plan in plans.items():
        for prompt in plan.prompts:
            yield from length_notes(job.info, prompt, _counter_of(part))


def _counter_of(part: Part) -> Encoder:
    return part if part in ("clip_l", "clip_g", "clip_h", "t5") else "clip"
