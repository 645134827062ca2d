"""An engine on one tiny random checkpoint of each kind, and the pipeline's pieces run on it one after another."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from backend.engine import pipeline
from backend.engine.engine import Engine
from backend.engine.job import Job
from backend.engine.latents import latent_format
from backend.engine.prompting import PromptCache, Prompting
from backend.engine.start import Start
from backend.families.table import FAMILIES
from backend.formats.configs import Family
from backend.records.resolve import resolve
from backend.request import GenerationRequest
from backend.settings import load_settings
from tests.builders import tiny_checkpoint

#: Name -> family, and what makes its output another than the family's usual one.
CHECKPOINTS: Mapping[str, tuple[Family, Mapping[str, object]]] = {
    "sdxl": ("sdxl", {}),
    "sd3": ("sd3", {}),
    "sd1": ("sd1", {}),
    "sd2": ("sd2", {}),
    "sd2-v": ("sd2", {"markers": ["v_pred"]}),
    "sdxl-v": ("sdxl", {"markers": ["v_pred"]}),
    "sdxl-v-zsnr": ("sdxl", {"markers": ["v_pred", "ztsnr"]}),
    "cosxl": ("sdxl", {"numbers": {"edm_vpred.sigma_max": torch.tensor(120.0),
                                   "edm_vpred.sigma_min": torch.tensor(0.002)}}),
    "playground": ("sdxl", {"numbers": {"edm_mean": torch.tensor([-1.6574, 1.886, -1.383, 2.5155]).view(1, 4, 1, 1),
                                        "edm_std": torch.tensor([8.4927, 5.9022, 6.5498, 5.2299]).view(1, 4, 1, 1)}}),
}  # fmt: skip


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    folder = tmp_path_factory.mktemp("families")
    (folder / "checkpoints").mkdir()
    for name, (family, options) in CHECKPOINTS.items():
        tiny_checkpoint(folder / "checkpoints" / f"{name}.safetensors", family, **options)
    return Engine(load_settings(data_dir=folder, models_dir=folder, device="cpu", dtype="float32"))


@dataclass(frozen=True)
class Trajectory:
    """What our pipeline made on its way to a picture.

    Attributes:
        states: x after each step, (1, C, h, w).
        decoded: the VAE's output, (1, 3, H, W).
    """

    prompting: Prompting
    sigmas: Tensor
    states: tuple[Tensor, ...]
    decoded: Tensor


def job_for(engine: Engine, request: GenerationRequest) -> Job:
    """A job as the engine prepares it."""
    info = engine.catalog.checkpoint(request.checkpoint)
    request = resolve(request, info, engine.registry, rng=random.Random(0)).request
    family = FAMILIES[info.family]
    return Job(
        request=request,
        info=info,
        vae=None,
        family=family,
        prediction=family.prediction(info, request),
        init_image=None,
        mask=None,
        batching="batched",
        check=lambda: None,
        on_note=lambda _note: None,
    )


def run_pipeline(engine: Engine, request: GenerationRequest) -> Trajectory:
    """The pipeline's own functions in their order, without the way to and from files."""
    job = job_for(engine, request)
    sigmas = pipeline.sigmas_of(job)
    prompting = PromptCache().encode(job, engine.manager, len(sigmas) - 1)
    states: list[Tensor] = []
    ((_, _, latents),) = pipeline.sample_batches(
        job, engine.manager, prompting, Start(), sigmas, lambda _batch, state: states.append(state.x.clone())
    )
    assert torch.equal(latents, states[-1])
    with torch.inference_mode():
        decoded = engine.manager.vae(job.info).decode(latent_format(job).decode(latents))
    return Trajectory(prompting, sigmas, tuple(states), decoded)
