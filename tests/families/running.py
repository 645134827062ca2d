"""The pipeline's own functions in their order, on a job with pictures or a refiner, without the way through files."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from backend.engine import pipeline
from backend.engine.engine import Engine
from backend.engine.job import Job
from backend.engine.prompting import PromptCache, Prompting
from backend.engine.shares import with_refiner
from backend.engine.start import prepare_start
from backend.families.table import FAMILIES
from backend.records.resolve import resolve
from backend.request import GenerationRequest


@dataclass(frozen=True)
class Way:
    """What was made on the way to the pictures: conditioning, sigmas, and ``x`` after each step, (1, C, h, w)."""

    prompting: Prompting
    sigmas: Tensor
    states: tuple[Tensor, ...]


def colours(width: int, height: int, seed: int = 1) -> Image.Image:
    """A picture of soft random colours."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)


def job_of(
    engine: Engine, request: GenerationRequest, image: Image.Image | None = None, mask: Image.Image | None = None
) -> Job:
    """A job as the engine prepares it, with these pictures whatever the request names."""
    info = engine.catalog.checkpoint(request.checkpoint)
    refiner = engine.catalog.refiner(request.refiner) if request.refiner else None
    resolved = resolve(
        request, info, engine.registry, rng=random.Random(0), refiner=refiner, init_size=image.size if image else None
    ).request
    family = FAMILIES[info.family]
    job = Job(
        request=resolved,
        info=info,
        vae=None,
        family=family,
        prediction=family.prediction(info, resolved),
        init_image=image,
        mask=mask,
        batching="batched",
        check=lambda: None,
        on_note=lambda _note: None,
    )
    return job if refiner is None else with_refiner(job, refiner)


def run_job(engine: Engine, job: Job) -> Way:
    """From the prompts to the last latent."""
    sigmas = pipeline.sigmas_of(job)
    prompting = PromptCache().encode(job, engine.manager, len(sigmas) - 1)
    start = prepare_start(job, engine.manager)
    states: list[Tensor] = []
    ((_, _, latents),) = pipeline.sample_batches(
        job, engine.manager, prompting, start, sigmas, lambda _batch, state: states.append(state.x.clone())
    )
    assert torch.equal(latents, states[-1])
    return Way(prompting, sigmas, tuple(states))
