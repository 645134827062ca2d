"""An engine on one tiny random checkpoint of each kind, and the pipeline's pieces run on it one after another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from backend.engine.engine import Engine
from backend.engine.latents import latent_format
from backend.formats.configs import Family
from backend.request import GenerationRequest
from backend.settings import load_settings
from tests.builders import tiny_checkpoint
from tests.families.running import Way, job_of, run_job

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
class Trajectory(Way):
    """What our pipeline made on its way to a picture.

    Attributes:
        decoded: the VAE's output, (1, 3, H, W).
    """

    decoded: Tensor


def run_pipeline(engine: Engine, request: GenerationRequest) -> Trajectory:
    """The pipeline's own functions in their order, without the way to and from files."""
    job = job_of(engine, request)
    way = run_job(engine, job)
    with torch.inference_mode():
        decoded = engine.manager.vae(job.info).decode(latent_format(job).decode(way.states[-1]))
    return Trajectory(way.prompting, way.sigmas, way.states, decoded)
