"""How a job's steps and network calls fall to its checkpoints, and how each of them is guided."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from backend.diffusion.guidance import Guidance, SkipLayers
from backend.diffusion.patching import Scope
from backend.engine.job import Job
from backend.families.base import plan_prompts
from backend.families.table import FAMILIES
from backend.formats.configs import CheckpointInfo, MMDiTConfig
from backend.formats.inputs import extra_inputs
from backend.formats.predictions import DISCRETE
from backend.records.model_fit import skip_layer_indices

TIMESTEPS = 1000


@dataclass(frozen=True)
class Share:
    """One checkpoint's part of a job.

    Attributes:
        until: the first step that is not its own.
        calls: network calls of the whole job, each picture and each branch counted alone; a last step may need fewer.
    """

    job: Job
    until: int
    calls: int


def shares_of(job: Job, sigmas: Tensor) -> tuple[Share, ...]:
    """The checkpoints that have steps to make, in order."""
    steps = len(sigmas) - 1
    if job.refiner is None:
        return (Share(job, steps, _calls(job, 0, steps, steps)),)
    at = hand_over_step(job, sigmas)
    legs = ((job, 0, at), (job.refiner, at, steps))
    return tuple(Share(leg, until, _calls(leg, start, until, steps)) for leg, start, until in legs if start < until)


def with_branches(shares: Sequence[Share], windows: Sequence[tuple[float, float]]) -> tuple[Share, ...]:
    """The shares with one evaluation more in every step of each window, two shares of all steps as in ``Scope``."""
    steps, begins = shares[-1].until, (0, *(share.until for share in shares))
    found: list[Share] = []
    for share, begin in zip(shares, begins, strict=False):
        added = sum(
            Scope(start=start, end=end).acts_at(step, steps)
            for start, end in windows
            for step in range(begin, share.until)
        )
        found.append(replace(share, calls=share.calls + _evaluations(share.job, added)))
    return tuple(found)


def hand_over_step(job: Job, sigmas: Tensor) -> int:
    """The first step of the refiner: below the timestep that lies ``refiner_switch`` of the way down.

    So do A1111 (since 1.8) and diffusers (``denoising_end``); with an even schedule it is that share of the steps.
    EDM's timesteps are others; there it is the share of the steps.
    """
    switch, steps = job.request.refiner_switch, len(sigmas) - 1
    if job.prediction.kind not in DISCRETE | {"flow"}:
        return round(switch * steps)
    cutoff = round(TIMESTEPS * (1 - switch)) - 1e-3  # a level of the table may come back a little lower
    return int((job.prediction.timestep(sigmas[:-1]) >= cutoff).sum())


def branches_at_once(info: CheckpointInfo) -> int:
    """Branches that a step puts into one call at most: prompt and negative prompt, and for a picture to change none."""
    return 3 if extra_inputs(info.denoiser) == "edit" else 2


def with_refiner(job: Job, refiner: CheckpointInfo) -> Job:
    """The job with a second checkpoint; what the request says of the first one's file does not hold for it, and
    its weights have no adapters."""
    family = FAMILIES[refiner.family]
    request = replace(job.request, prediction=None, zero_terminal_snr=None)
    other = replace(
        job, request=request, info=refiner, vae=None, family=family, adapters=(),
        prediction=family.prediction(refiner, request),
    )  # fmt: skip
    return replace(job, refiner=other)


def guidance_of(job: Job) -> Guidance:
    """How strongly and in which steps prompt and picture steer this job's checkpoint."""
    request, denoiser = job.request, job.info.denoiser
    skip = None
    if request.skip_layer_scale and isinstance(denoiser, MMDiTConfig):
        layers = skip_layer_indices(request.skip_layers)
        skip = SkipLayers(layers, request.skip_layer_scale, request.skip_layer_start, request.skip_layer_end)
    return Guidance(
        scale=request.cfg_scale or 1.0,
        rescale=request.cfg_rescale,
        start=request.guidance_start,
        end=request.guidance_end,
        image_scale=request.image_cfg_scale if extra_inputs(denoiser) == "edit" else 1.0,
        skip=skip,
    )


def _calls(job: Job, start: int, until: int, steps: int) -> int:
    request, guidance = job.request, guidance_of(job)
    plans = plan_prompts(job.spoken, job.family.text_parts(job.info, request), steps, negative=False).values()
    weights = [part.weight for part in max(plans, key=lambda plan: len(plan.parts)).parts]
    ways = [way for step in range(start, until) for way in guidance.ways(weights, step, steps)]
    branches = sum(1 if way.is_negative else len(weights) for way in ways)
    return _evaluations(job, branches)


def _evaluations(job: Job, branches: int) -> int:
    """Network calls of the whole job for so many branches of its steps together."""
    return round(branches * job.sampler.calls_per_step * job.request.batch_size * job.request.batch_count)
