"""The SDXL refiner, alone and as the second half of a job, against diffusers' pipelines with the same weights."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from torch import Tensor

from backend.checkpoints.diffusers_layout import unet_to_diffusers
from backend.engine import pipeline
from backend.engine.engine import Engine
from backend.engine.shares import hand_over_step, shares_of
from backend.families.sdxl_refiner import scored_numbers
from backend.formats.configs import UNetConfig
from backend.request import GenerationRequest
from backend.settings import load_settings
from tests import builders
from tests.families.running import colours, job_of, run_job
from tests.oracles import diffusers_pipelines as oracles
from tests.oracles.diffusers_networks import diffusers_unet

WIDTH, HEIGHT, SEED, STEPS = 96, 64, 11, 6
PROMPT = "a red fox, two hats"
TOLERANCE = 1e-4  # of the largest value
oracle = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    folder = tmp_path_factory.mktemp("refiner")
    (folder / "checkpoints").mkdir()
    for name, family, seed in (("base", "sdxl", 0), ("other", "sdxl", 3), ("refiner", "sdxl_refiner", 5)):
        builders.tiny_checkpoint(folder / "checkpoints" / f"{name}.safetensors", family, seed)  # type: ignore[arg-type]
    return Engine(load_settings(data_dir=folder, models_dir=folder, device="cpu", dtype="float32"))


def ask(checkpoint: str, **fields: Any) -> GenerationRequest:
    common: dict[str, Any] = {
        "prompt": PROMPT, "cfg_scale": 3.5, "steps": STEPS, "seed": SEED, "sampler": "euler", "schedule": "normal",
        "width": WIDTH, "height": HEIGHT,
    }  # fmt: skip
    return GenerationRequest(checkpoint=checkpoint, **(common | fields))


def close(ours: Tensor, want: Tensor) -> None:
    assert ours.shape == want.shape
    assert ((ours - want).abs().max() / want.abs().max()).item() < TOLERANCE


def their_base(engine: Engine) -> Any:
    info = engine.catalog.checkpoint("base")
    models = {part: engine.manager.get(info, part) for part in info.sources}
    return oracles.sdxl_pipeline(info, models, builders.tiny_clip_tokenizer())


def their_refiner(engine: Engine) -> Any:
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLImg2ImgPipeline

    info = engine.catalog.checkpoint("refiner")
    models = {part: engine.manager.get(info, part) for part in info.sources}
    assert isinstance(info.denoiser, UNetConfig)
    assert info.clip_g is not None
    unet = diffusers_unet(info.denoiser)
    unet.load_state_dict(unet_to_diffusers(models["denoiser"].state_dict(), info.denoiser))
    pipe = StableDiffusionXLImg2ImgPipeline(
        vae=oracles._vae(info, models),
        text_encoder=cast("Any", None),
        tokenizer=cast("Any", None),
        text_encoder_2=cast("Any", oracles.clip_with_projection(info.clip_g, models["clip_g"].state_dict())),
        tokenizer_2=cast("Any", oracles._clip_tokenizer(info.clip_g, builders.tiny_clip_tokenizer())),
        unet=unet,
        scheduler=EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"),
        requires_aesthetics_score=True,
        add_watermarker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def keeper(states: list[Tensor]) -> Any:
    def keep(_pipeline: Any, _step: int, _timestep: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        states.append(tensors["latents"].clone())
        return {}

    return keep


class TestAgainstDiffusers:
    pytestmark = oracle

    @pytest.mark.parametrize("negative", ["", "a green hat"], ids=["empty negative", "negative"])
    @pytest.mark.parametrize("switch", [0.5, 0.8])
    def test_the_hand_over_is_theirs(self, engine: Engine, switch: float, negative: str) -> None:
        """denoising_end and denoising_start on one list of sigmas."""
        job = job_of(engine, ask("base", refiner="refiner", refiner_switch=switch, negative_prompt=negative,
                                 aesthetic_score=7.5, negative_aesthetic_score=1.5))  # fmt: skip
        ours = run_job(engine, job)
        noise = torch.randn((4, HEIGHT // 8, WIDTH // 8), generator=torch.Generator().manual_seed(SEED))[None]
        states: list[Tensor] = []
        common: dict[str, Any] = {
            "prompt": PROMPT, "negative_prompt": negative or None, "guidance_scale": 3.5, "output_type": "latent",
            "num_inference_steps": STEPS, "sigmas": ours.sigmas.tolist(), "callback_on_step_end": keeper(states),
        }  # fmt: skip
        latents = their_base(engine)(latents=noise, width=WIDTH, height=HEIGHT, denoising_end=switch, **common).images
        by_base = len(states)
        their_refiner(engine)(
            image=latents, denoising_start=switch, aesthetic_score=7.5, negative_aesthetic_score=1.5, **common
        )
        assert by_base == hand_over_step(job, ours.sigmas) == {0.5: 3, 0.8: 4}[switch]
        assert len(states) == len(ours.states) == STEPS
        for state, want in zip(ours.states, states, strict=True):
            close(state, want)

    def test_alone_it_is_theirs(self, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
        from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

        monkeypatch.setattr(DiagonalGaussianDistribution, "sample", lambda self, generator=None: self.mode())
        image = colours(WIDTH, HEIGHT)
        request = ask("refiner", init_image="a" * 64, denoise=0.5, original_width=640, original_height=480, crop_top=8)
        ours = run_job(engine, job_of(engine, request, image))
        sigmas = [20.0, *ours.sigmas.tolist()]  # its strength cuts the list: one more before ours, which is left out
        states: list[Tensor] = []
        their_refiner(engine)(
            PROMPT, image=image, strength=1 - 0.9 / len(sigmas), num_inference_steps=len(sigmas), sigmas=sigmas,
            guidance_scale=3.5, output_type="latent", original_size=(480, 640), crops_coords_top_left=(8, 0),
            negative_crops_coords_top_left=(8, 0),
            generator=torch.Generator().manual_seed(SEED), callback_on_step_end=keeper(states),
        )  # fmt: skip
        assert len(states) == len(ours.states) == 4
        for state, want in zip(ours.states, states, strict=True):
            close(state, want)


def test_score_and_sizes_are_told_in_the_published_order() -> None:
    request = ask("refiner", original_height=480, original_width=640, crop_top=8, crop_left=24, target_width=9)
    assert scored_numbers(request, negative=False) == (480, 640, 8, 24, 6.0)
    assert scored_numbers(request, negative=True) == (480, 640, 8, 24, 2.5)


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "lms", "unipc", "heun", "dpmpp_2m_sde"])
def test_the_samplers_history_goes_on_through_the_hand_over(engine: Engine, sampler: str) -> None:
    """A checkpoint that hands over to itself is as if it had never handed over, to the bit."""
    whole = run_job(engine, job_of(engine, ask("base", sampler=sampler)))
    halves = run_job(engine, job_of(engine, ask("base", sampler=sampler, refiner="base", refiner_switch=0.5)))
    other = run_job(engine, job_of(engine, ask("base", sampler=sampler, refiner="other", refiner_switch=0.5)))
    assert [torch.equal(*pair) for pair in zip(whole.states, halves.states, strict=True)] == [True] * STEPS
    assert [torch.equal(*pair) for pair in zip(whole.states, other.states, strict=True)] == [True] * 3 + [False] * 3


@pytest.mark.parametrize(
    ("switch", "schedule", "fields", "at"),
    [
        (0.8, "normal", {"steps": 20}, 16),
        (0.8, "karras", {"steps": 20}, 12),  # Karras comes to the low levels earlier
        (1.0, "normal", {}, STEPS),
        (0.0, "normal", {}, 0),
        (0.8, "normal", {"init_image": "a" * 64, "denoise": 0.1, "steps": 20}, 0),
    ],
)
def test_the_refiner_begins_below_its_timestep(
    engine: Engine, switch: float, schedule: str, fields: dict[str, Any], at: int
) -> None:
    image = colours(WIDTH, HEIGHT) if "init_image" in fields else None
    job = job_of(engine, ask("base", refiner="refiner", refiner_switch=switch, schedule=schedule, **fields), image)
    sigmas = pipeline.sigmas_of(job)
    assert hand_over_step(job, sigmas) == at
    assert [share.until for share in shares_of(job, sigmas)] == sorted({at, len(sigmas) - 1} - {0})
