"""Inpainting with 9 channels and instruct-pix2pix with 8: the way to the picture against diffusers' pipelines."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from backend.diffusion.masking import inpaint_inputs
from backend.engine.engine import Engine
from backend.engine.latents import latent_format
from backend.engine.start import prepare_start
from backend.formats.configs import UNetConfig
from backend.request import GenerationRequest
from backend.settings import load_settings
from tests import builders
from tests.families.running import colours, job_of, run_job
from tests.oracles.diffusers_pipelines import sd1_pipeline, sdxl_pipeline

WIDTH, HEIGHT, SEED, STEPS = 96, 64, 11, 5
PROMPT = "a red fox, two hats"
TOLERANCE = 1e-4  # of the largest value
SHA = "a" * 64  # a stored picture, whose pixels the tests give themselves


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "checkpoints").mkdir()
    for family, unet in (("sdxl", builders.TINY_UNET), ("sd1", builders.TINY_UNET_SD1)):
        for kind, channels in (("inpaint", 9), ("edit", 8)):
            path = folder / "checkpoints" / f"{family}-{kind}.safetensors"
            builders.tiny_checkpoint(path, family, denoiser=replace(unet, in_channels=channels))  # type: ignore[arg-type]
    return Engine(load_settings(data_dir=folder, models_dir=folder, device="cpu", dtype="float32"))


@pytest.fixture
def modes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """diffusers encodes pictures to a sample; ours to the mean (FORMATS.md 3.1). Let it take the mean, too."""
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

    monkeypatch.setattr(DiagonalGaussianDistribution, "sample", lambda self, generator=None: self.mode())
    yield


def ask(checkpoint: str, **fields: Any) -> GenerationRequest:
    common: dict[str, Any] = {
        "prompt": PROMPT, "cfg_scale": 3.5, "steps": STEPS, "seed": SEED, "sampler": "euler", "schedule": "karras",
        "width": WIDTH, "height": HEIGHT, "init_image": SHA,
    }  # fmt: skip
    return GenerationRequest(checkpoint=checkpoint, **(common | fields))


def mask_of(box: tuple[int, int, int, int]) -> Image.Image:
    mask = Image.new("L", (WIDTH, HEIGHT))
    mask.paste(255, box)
    return mask


def theirs(engine: Engine, name: str, kind: Any) -> tuple[Any, Any]:
    """diffusers' pipeline of another class around the same parts, and the plain one."""
    info = engine.catalog.checkpoint(name)
    assert isinstance(info.denoiser, UNetConfig)
    models = {part: engine.manager.get(info, part) for part in info.sources}
    make = sd1_pipeline if info.family == "sd1" else sdxl_pipeline
    whole = make(info, models, builders.tiny_clip_tokenizer())
    whole.unet.register_to_config(sample_size=64)  # SD1's inpainting pipeline compares it
    other = kind(**{part: each for part, each in whole.components.items() if each is not None})
    other.set_progress_bar_config(disable=True)
    return other, whole


def close(ours: Tensor, want: Tensor) -> None:
    assert ours.shape == want.shape
    assert ((ours - want).abs().max() / want.abs().max()).item() < TOLERANCE


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")  # diffusers with numpy 2
@pytest.mark.usefixtures("modes")
@pytest.mark.parametrize("negative", ["", "a green hat"], ids=["empty negative", "negative"])
def test_an_inpainting_trajectory_is_diffusers(engine: Engine, negative: str) -> None:
    """Where they agree: diffusers starts from noise alone at strength 1, we never do with a picture (A1111)."""
    from diffusers import StableDiffusionXLInpaintPipeline

    image, mask = colours(WIDTH, HEIGHT), mask_of((19, 9, 70, 45))
    request = ask("sdxl-inpaint", negative_prompt=negative, mask=SHA, mask_blur=0, denoise=0.7)
    ours = run_job(engine, job_of(engine, request, image, mask))
    assert len(ours.states) == 4
    states: list[Tensor] = []
    pipe, _ = theirs(engine, "sdxl-inpaint", StableDiffusionXLInpaintPipeline)
    # Its strength cuts a list of sigmas: one more before ours, and it leaves that one out.
    sigmas = [20.0, *ours.sigmas.tolist()]
    pipe(
        PROMPT, image=image, mask_image=mask, negative_prompt=negative or None, strength=0.81, width=WIDTH,
        height=HEIGHT, num_inference_steps=len(sigmas), sigmas=sigmas, guidance_scale=3.5, output_type="latent",
        generator=torch.Generator().manual_seed(SEED), callback_on_step_end=keeper(states),
    )  # fmt: skip
    assert len(states) == len(ours.states)
    for state, want in zip(ours.states, states, strict=True):
        close(state, want)


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")
@pytest.mark.parametrize(
    ("negative", "scale", "image_scale", "rescale"),
    [("", 3.5, 1.5, 0.0), ("a green hat", 7.0, 1.2, 0.0), ("", 4.0, 1.0, 0.0), ("a green hat", 3.5, 1.5, 0.7)],
)
def test_an_instruct_pix2pix_trajectory_is_diffusers(
    engine: Engine, negative: str, scale: float, image_scale: float, rescale: float
) -> None:
    """Three branches, the picture's latent without its scale, noise alone at the start."""
    from diffusers import StableDiffusionXLInstructPix2PixPipeline

    image = colours(WIDTH, HEIGHT)
    request = ask("sdxl-edit", negative_prompt=negative, denoise=1.0, cfg_scale=scale, image_cfg_scale=image_scale,
                  cfg_rescale=rescale)  # fmt: skip
    ours = run_job(engine, job_of(engine, request, image))
    assert len(ours.states) == STEPS
    pipe, plain = theirs(engine, "sdxl-edit", StableDiffusionXLInstructPix2PixPipeline)
    with torch.no_grad():  # its own way to the negative embeddings breaks where there is no negative prompt
        names = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
        embeddings = dict(zip(names, plain.encode_prompt(PROMPT, negative_prompt=negative or None), strict=True))
    set_timesteps = pipe.scheduler.set_timesteps
    pipe.scheduler.set_timesteps = lambda _steps, device: set_timesteps(sigmas=ours.sigmas.tolist(), device=device)
    noise = torch.randn((4, HEIGHT // 8, WIDTH // 8), generator=torch.Generator().manual_seed(SEED))[None]
    states: list[Tensor] = []
    pipe(
        image=image, width=WIDTH, height=HEIGHT, latents=noise, **embeddings,
        original_size=(HEIGHT, WIDTH), target_size=(HEIGHT, WIDTH), num_inference_steps=STEPS, guidance_scale=scale,
        image_guidance_scale=image_scale, guidance_rescale=rescale, output_type="latent",
        callback=lambda _step, _timestep, latents: states.append(latents.clone()), callback_steps=1,
    )  # fmt: skip
    assert len(states) == STEPS
    for state, want in zip(ours.states, states, strict=True):
        close(state, want)


def keeper(states: list[Tensor]) -> Any:
    def keep(_pipeline: Any, _step: int, _timestep: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        states.append(tensors["latents"].clone())
        return {}

    return keep


def with_sigmas(pipe: Any, sigmas: list[float]) -> None:
    """SD1's pipelines take a number of steps only."""
    set_timesteps = pipe.scheduler.set_timesteps
    pipe.scheduler.set_timesteps = lambda _steps, device=None: set_timesteps(sigmas=sigmas, device=device)


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")
@pytest.mark.usefixtures("modes")
def test_an_sd1_inpainting_trajectory_is_diffusers(engine: Engine) -> None:
    from diffusers import StableDiffusionInpaintPipeline

    image, mask = colours(WIDTH, HEIGHT), mask_of((19, 9, 70, 45))
    request = ask("sd1-inpaint", mask=SHA, mask_blur=0, denoise=0.7, negative_prompt="a green hat")
    ours = run_job(engine, job_of(engine, request, image, mask))
    pipe, _ = theirs(engine, "sd1-inpaint", partial(StableDiffusionInpaintPipeline, safety_checker=None,
                                                    feature_extractor=None, requires_safety_checker=False))  # fmt: skip
    sigmas, states = [20.0, *ours.sigmas.tolist()], list[Tensor]()
    with_sigmas(pipe, sigmas)
    pipe(
        PROMPT, image=image, mask_image=mask, negative_prompt="a green hat", strength=0.81, width=WIDTH, height=HEIGHT,
        num_inference_steps=len(sigmas) - 1, guidance_scale=3.5, output_type="latent",
        generator=torch.Generator().manual_seed(SEED), callback_on_step_end=keeper(states),
    )  # fmt: skip
    assert len(states) == len(ours.states) == 4
    for state, want in zip(ours.states, states, strict=True):
        close(state, want)


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")
@pytest.mark.parametrize(("scale", "image_scale"), [(3.5, 1.5), (7.5, 1.0)])
def test_an_sd1_instruct_pix2pix_trajectory_is_diffusers(engine: Engine, scale: float, image_scale: float) -> None:
    from diffusers import StableDiffusionInstructPix2PixPipeline

    image = colours(WIDTH, HEIGHT)
    request = ask("sd1-edit", denoise=1.0, cfg_scale=scale, image_cfg_scale=image_scale, negative_prompt="a green hat")
    ours = run_job(engine, job_of(engine, request, image))
    pipe, _ = theirs(engine, "sd1-edit", partial(StableDiffusionInstructPix2PixPipeline, safety_checker=None,
                                                 feature_extractor=None, requires_safety_checker=False))  # fmt: skip
    with_sigmas(pipe, ours.sigmas.tolist())
    noise = torch.randn((4, HEIGHT // 8, WIDTH // 8), generator=torch.Generator().manual_seed(SEED))[None]
    states: list[Tensor] = []
    pipe(
        PROMPT, image=image, negative_prompt="a green hat", latents=noise, num_inference_steps=STEPS,
        guidance_scale=scale, image_guidance_scale=image_scale, output_type="latent",
        callback_on_step_end=keeper(states),
    )  # fmt: skip
    assert len(states) == len(ours.states) == STEPS
    for state, want in zip(ours.states, states, strict=True):
        close(state, want)


def test_inpainting_reads_mask_then_the_latent_of_what_is_kept_with_grey_where_masked() -> None:
    pixels = torch.rand(1, 3, 16, 24) * 2 - 1
    mask = torch.zeros(1, 1, 16, 24)
    mask[..., 4:12, 8:20] = 1.0
    mask[..., 3, :] = 0.4  # less than half: kept
    seen: list[Tensor] = []

    def encode(picture: Tensor) -> Tensor:
        seen.append(picture)
        return torch.full((1, 4, 2, 3), 7.0)

    inputs = inpaint_inputs(pixels, mask, encode)
    assert inputs.shape == (1, 5, 2, 3)
    assert (inputs[:, 1:] == 7).all()
    # every eighth pixel of the mask, from the first one on
    assert inputs[0, 0].tolist() == [[0, 0, 0], [0, 1, 1]]
    hidden = mask.expand(-1, 3, -1, -1) >= 0.5
    assert (seen[0][hidden] == 0).all()
    assert torch.equal(seen[0][~hidden], pixels[~hidden])


@pytest.mark.parametrize("image", [None, colours(WIDTH, HEIGHT)], ids=["txt2img", "img2img"])
def test_without_a_mask_all_is_masked(engine: Engine, image: Image.Image | None) -> None:
    job = job_of(engine, ask("sdxl-inpaint", init_image=SHA if image else None), image)
    (inputs,) = prepare_start(job, engine.manager).inputs.values()
    with torch.no_grad():
        grey = engine.manager.vae(job.info).encode(torch.zeros(1, 3, HEIGHT, WIDTH))
    assert (inputs[:, 0] == 1).all()
    assert torch.allclose(inputs[:, 1:], latent_format(job).encode(grey))


def test_ordinary_models_have_no_inputs_beside_the_latent(engine: Engine) -> None:
    builders.tiny_checkpoint(engine.settings.models_dir / "checkpoints" / "plain.safetensors", "sdxl")
    job = job_of(engine, ask("plain"), colours(WIDTH, HEIGHT), None)
    assert dict(prepare_start(job, engine.manager).inputs) == {}
