"""The one pipeline: encode, noise, sample, decode, put back; txt2img, img2img and inpaint differ by optional inputs.

Prompts are encoded in ``prompting``, pictures in ``start`` and ``latents``, which decodes too; ``run`` calls one after
the other. Everything that is needed comes in; nothing is kept between jobs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from backend.diffusion.denoiser import GuidedDenoiser
from backend.diffusion.masking import KeepUnmasked
from backend.diffusion.noise import NoiseSource
from backend.diffusion.patched import PatchSet
from backend.diffusion.patching import PatchRefused, StepMask
from backend.diffusion.relay import Leg, Relay
from backend.diffusion.samplers.spec import Denoiser, OnStep, StepState
from backend.diffusion.sampling_patch import AroundSampling, SamplingStart, around_sampling
from backend.diffusion.schedules import img2img_sigmas, make_schedule
from backend.engine.job import Job
from backend.engine.latents import latent_shape
from backend.engine.models import ModelManager
from backend.engine.prompting import Prompting
from backend.engine.shares import Share, guidance_of, shares_of
from backend.engine.start import Start, start_point
from backend.engine.uses import Use
from backend.formats.inputs import extra_inputs
from backend.nn.unet import UNet


@dataclass(frozen=True)
class Batch:
    """The finished pictures of one batch, with their seeds."""

    index: int
    images: tuple[Image.Image, ...]
    seeds: tuple[int, ...]


OnBatchStep = Callable[[int, StepState], None]  # batch index, step


def sigmas_of(job: Job) -> Tensor:
    """The noise levels that this job runs through, highest first, the last 0."""
    request, default = job.request, job.sampler.default_schedule

    def schedule(steps: int) -> Tensor:
        return make_schedule(str(request.schedule), default, job.prediction, steps, job.schedules)

    steps = request.steps or 1
    if job.init_image is None:
        return schedule(steps)
    return img2img_sigmas(schedule, steps, request.denoise, exact_steps=request.exact_steps)


def sample_batches(
    job: Job,
    manager: ModelManager,
    prompting: Prompting,
    start: Start,
    sigmas: Tensor,
    on_step: OnBatchStep,
    batches: Iterable[int] | None = None,
) -> Iterator[tuple[int, tuple[int, ...], Tensor]]:
    """Run the sampler batch by batch: (batch index, seeds, latents (B, C, h, w) in denoiser units, float32).

    Args:
        batches: those to be made, counted from 0; None: all.
    Raises:
        NanDetected: with the step; Cancelled: between two network calls.
    """
    request = job.request
    for batch in range(request.batch_count) if batches is None else batches:
        places = range(batch * request.batch_size, (batch + 1) * request.batch_size)
        seeds, variations = zip(*(request.seeds_of(place) for place in places), strict=True)
        yield (
            batch,
            seeds,
            _sampled(job, manager, prompting, start, sigmas, (seeds, variations), partial(on_step, batch)),
        )


def _sampled(
    job: Job,
    manager: ModelManager,
    prompting: Prompting,
    start: Start,
    sigmas: Tensor,
    seeds: tuple[tuple[int, ...], tuple[int, ...]],
    on_step: OnStep,
) -> Tensor:
    """The latents of one batch; once they are there, nothing here refers to a network any more.

    Args:
        seeds: of each image, and of its variation.
    """
    noise = NoiseSource(
        seeds[0],
        latent_shape(job),
        device=manager.policy.device,
        variation_seeds=seeds[1],
        variation_strength=job.request.variation_strength,
    )
    around = job.patches_for(job).of(AroundSampling)
    with manager.using(job.use()) as use:
        steps = len(sigmas) - 1
        relay = Relay(
            [
                Leg(share.until, partial(_denoiser, share, job, manager, prompting, start, steps, use))
                for share in shares_of(job, sigmas)
            ]
        )
        x = start_point(job, start, noise, seeds[0], sigmas)
        told: dict[str, Any] = {"branches": relay.branches} if job.sampler.reads_branches else {}
        run = job.sampler.with_parameters(job.values.get(job.sampler.name))
        told |= {"prediction": job.prediction, "noise": noise, "on_step": relay.counting(on_step)}
        begun = SamplingStart(sigmas, noise.initial, start.init_latent, relay)
        with torch.inference_mode():
            return around_sampling(lambda x: run(relay, x, sigmas, **told), around, begun)(x)


def _denoiser(
    share: Share, whole: Job, manager: ModelManager, prompting: Prompting, start: Start, steps: int, use: Use
) -> tuple[GuidedDenoiser, Denoiser]:
    """The denoiser of one checkpoint's share of the steps, and that which keeps what the mask keeps.

    A model that was made for inpainting sees what is kept; what is laid back over its result keeps it to the pixel.
    """
    job = share.job
    own = prompting if job is whole or prompting.refiner is None else prompting.refiner
    kind = extra_inputs(job.info.denoiser)
    manager.release(use)  # the network of the share before was let go
    with torch.inference_mode(False):  # the sampler runs in it, and weights that are loaded there can never be changed
        network = manager.denoiser(job.info, job.adapters, use)
        patches = job.patches_for(job)
        weights = manager.weight_sets(job.info, job.adapters)
    guided = GuidedDenoiser(
        network,
        job.prediction,
        own.cond,
        own.uncond,
        steps=steps,
        extra=start.inputs.get(kind),
        guidance=guidance_of(job),
        batching=job.batching,
        # Cross-attention does not see repeated tokens; joint attention does.
        context_repeats=isinstance(network, UNet),
        prepare=network.prepare_context,
        dtype=manager.policy.dtype,
        check=job.check,
        patches=patches,
        weights=weights,
        keeps_branches=whole.sampler.reads_branches,
    )
    if start.mask is None or start.init_latent is None or kind == "inpaint":
        if changing := patches.of(StepMask):
            raise PatchRefused(
                f"{changing[0].name} changes what is repainted step by step, which "
                + (f"{job.info.name} decides itself." if kind == "inpaint" else "a job without a mask does not do."),
                "Switch it off, or inpaint with an ordinary checkpoint.",
                field="extensions",
            )
        return guided, guided
    return guided, KeepUnmasked(guided, _mask_of(start, guided, patches), start.init_latent)


def _mask_of(start: Start, guided: GuidedDenoiser, patches: PatchSet) -> Callable[[], Tensor]:
    """The latent mask of the step that is being made, as patches have it."""
    mask, soft = start.mask, start.soft_mask
    if mask is None or soft is None:
        raise ValueError("a job without a mask keeps nothing")

    def current() -> Tensor:
        changing = patches.of(StepMask, guided.step, guided.steps)
        return changing[0].mask(soft, guided.step, guided.steps) if changing else mask

    return current


def finish_batch(start: Start, index: int, seeds: tuple[int, ...], images: Sequence[Image.Image]) -> Batch:
    """Lay inpainted areas back over their picture."""
    put_back = start.layout.put_back if start.layout else lambda image: image
    return Batch(index, tuple(put_back(image) for image in images), seeds)
