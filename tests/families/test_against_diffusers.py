"""From the prompt to the decoded picture: our pipeline against diffusers' with the same weights, noise and sigmas."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from backend.engine.engine import Engine
from backend.request import GenerationRequest
from tests.builders import tiny_clip_tokenizer, tiny_t5_tokenizer
from tests.families.conftest import Trajectory, run_pipeline
from tests.families.running import job_of
from tests.oracles.diffusers_pipelines import sd3_pipeline, sdxl_pipeline

pytestmark = [
    pytest.mark.oracle,
    pytest.mark.filterwarnings("ignore:__array:DeprecationWarning"),  # diffusers with numpy 2
]

TOLERANCE = 1e-4  # of the largest value
STEPS, SEED, WIDTH, HEIGHT = 5, 11, 96, 64
GRAMMAR_FREE: dict[str, Any] = {"prompt": "a red fox, two hats", "cfg_scale": 3.5, "steps": STEPS, "seed": SEED}


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    assert ours.shape == theirs.shape
    assert torch.isfinite(ours).all()
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def close(ours: Tensor, theirs: Tensor, tolerance: float = TOLERANCE) -> None:
    assert relative_error(ours, theirs) < tolerance


def ask(checkpoint: str, **fields: Any) -> GenerationRequest:
    common = {"sampler": "euler", "width": WIDTH, "height": HEIGHT}
    return GenerationRequest(checkpoint=checkpoint, **(GRAMMAR_FREE | common | fields))


@pytest.fixture(scope="module")
def sdxl(engine: Engine) -> Any:
    info = engine.catalog.checkpoint("sdxl")
    models = {part: engine.manager.get(info, part) for part in info.sources}
    return sdxl_pipeline(info, models, tiny_clip_tokenizer())


@pytest.fixture(scope="module")
def sd3(engine: Engine) -> Any:
    info = engine.catalog.checkpoint("sd3")
    models = {part: engine.manager.get(info, part) for part in info.sources}
    return sd3_pipeline(info, models, tiny_clip_tokenizer(), tiny_t5_tokenizer())


def follow(pipeline: Any, channels: int, sigmas: Tensor, **arguments: Any) -> tuple[list[Tensor], Tensor]:
    """diffusers' latents after each step, and its picture (1, H, W, 3) in [0, 1]."""
    noise = torch.randn((channels, HEIGHT // 8, WIDTH // 8), generator=torch.Generator().manual_seed(SEED))[None]
    states: list[Tensor] = []

    def keep(_pipeline: Any, _step: int, _timestep: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        states.append(tensors["latents"].clone())
        return {}

    picture = pipeline(
        latents=noise, sigmas=sigmas.tolist(), num_inference_steps=STEPS, width=WIDTH, height=HEIGHT,
        guidance_scale=3.5, output_type="np", callback_on_step_end=keep, **arguments,
    ).images  # fmt: skip
    return states, torch.from_numpy(picture)


def same_way(ours: Trajectory, states: list[Tensor], picture: Tensor, *, tolerance: float = TOLERANCE) -> None:
    """``tolerance`` is the decoded picture's; latents always agree to 1e-4."""
    assert len(states) == len(ours.states) == STEPS
    for our_state, their_state in zip(ours.states, states, strict=True):
        close(our_state, their_state)
    pixels = (ours.decoded / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)  # (1, H, W, 3)
    assert pixels.std() > 0.05  # a picture, not a flat colour
    close(pixels, picture, tolerance)


@pytest.mark.parametrize("negative", ["", "a green hat"], ids=["empty negative", "negative"])
def test_sdxl_conditioning_is_diffusers(engine: Engine, sdxl: Any, negative: str):
    from diffusers.models.embeddings import Timesteps

    ours = run_pipeline(
        engine,
        ask("sdxl", negative_prompt=negative, prompt_clip_g="a blue owl", original_width=640, original_height=480,
            crop_left=24, crop_top=8, target_width=320, target_height=256),
    ).prompting  # fmt: skip
    assert ours.uncond is not None
    with torch.no_grad():
        context, empty_context, pooled, empty_pooled = sdxl.encode_prompt(
            GRAMMAR_FREE["prompt"], "a blue owl", negative_prompt=negative or None
        )
        # height before width, top before left
        sizes = Timesteps(256, flip_sin_to_cos=True, downscale_freq_shift=0)(
            torch.tensor([480.0, 640, 8, 24, 256, 320])
        )
    for conditioning, tokens, vector in [
        (ours.cond[0].at(0), context, pooled),
        (ours.uncond.at(0), empty_context, empty_pooled),
    ]:
        assert conditioning.pooled is not None
        if negative or conditioning is not ours.uncond.at(0):
            close(conditioning.context, tokens)
            close(conditioning.pooled[:, : vector.shape[1]], vector)
        else:
            assert not conditioning.context.any()
            assert not tokens.any()
            assert not conditioning.pooled[:, : vector.shape[1]].any()
        close(conditioning.pooled[:, vector.shape[1] :], sizes.flatten()[None])


@pytest.mark.parametrize("negative", ["", "a green hat"], ids=["empty negative", "negative"])
def test_an_sdxl_trajectory_is_diffusers(engine: Engine, sdxl: Any, negative: str):
    ours = run_pipeline(engine, ask("sdxl", negative_prompt=negative, crop_left=24, original_width=640))
    states, picture = follow(
        sdxl, 4, ours.sigmas, prompt=GRAMMAR_FREE["prompt"], negative_prompt=negative or None,
        original_size=(HEIGHT, 640), crops_coords_top_left=(0, 24), target_size=(HEIGHT, WIDTH),
    )  # fmt: skip
    same_way(ours, states, picture)


def test_an_sdxl_picture_is_diffusers(engine: Engine, sdxl: Any):
    """Through ``Engine.generate``: the same picture, to the last level of a pixel."""
    request = ask("sdxl", schedule="karras")
    picture = engine.generate(request).pictures[0].image
    sigmas = run_pipeline(engine, request).sigmas
    _, theirs = follow(sdxl, 4, sigmas, prompt=GRAMMAR_FREE["prompt"])
    difference = np.abs(np.asarray(picture, dtype=np.float32) - theirs[0].numpy() * 255)
    assert difference.max() <= 1.0


@pytest.mark.parametrize("negative", ["", "a green hat"], ids=["empty negative", "negative"])
def test_sd3_conditioning_is_diffusers(engine: Engine, sd3: Any, negative: str):
    ours = run_pipeline(
        engine, ask("sd3", negative_prompt=negative, prompt_clip_g="a blue owl", prompt_t5="an owl and a hat")
    ).prompting
    assert ours.uncond is not None
    info = engine.catalog.checkpoint("sd3")
    assert info.t5 is not None
    with torch.no_grad():
        context, empty_context, pooled, empty_pooled = sd3.encode_prompt(
            GRAMMAR_FREE["prompt"], "a blue owl", "an owl and a hat",
            negative_prompt=negative, max_sequence_length=info.t5.min_length,
        )  # fmt: skip
    for conditioning, tokens, vector in [
        (ours.cond[0].at(0), context, pooled),
        (ours.uncond.at(0), empty_context, empty_pooled),
    ]:
        assert conditioning.pooled is not None
        close(conditioning.context, tokens)
        close(conditioning.pooled, vector)


@pytest.mark.parametrize("prompt", ["a red fox", "fox " * 21], ids=["short", "as long as T5 reads"])
def test_t5_at_full_length_is_diffusers_padding(engine: Engine, sd3: Any, prompt: str):
    prompt = prompt.strip()
    ours = run_pipeline(engine, ask("sd3", prompt=prompt, prompt_clip_l="x", prompt_clip_g="x", t5_full_length=True))
    with torch.no_grad():
        context, _, _, _ = sd3.encode_prompt("x", "x", prompt, max_sequence_length=64)
    assert context.shape[1] == 77 + 64
    close(ours.prompting.cond[0].at(0).context, context)


def test_fact_8_zeros_for_t5_are_diffusers_and_without_them_there_are_clip_s_tokens_alone(engine: Engine, sd3: Any):
    """Not the same picture: the denoiser's context embedder has a bias, so zeros are read too."""
    from diffusers import StableDiffusion3Pipeline

    without = StableDiffusion3Pipeline(**(sd3.components | {"text_encoder_3": None, "tokenizer_3": None}))
    with torch.no_grad():
        context, empty_context, _, _ = without.encode_prompt(GRAMMAR_FREE["prompt"], None, None, max_sequence_length=64)
    zeros = run_pipeline(engine, ask("sd3", use_t5=False, t5_zeros=True))
    assert zeros.prompting.uncond is not None
    close(zeros.prompting.cond[0].at(0).context, context)
    close(zeros.prompting.uncond.at(0).context, empty_context)
    alone = run_pipeline(engine, ask("sd3", use_t5=False))
    assert torch.equal(alone.prompting.cond[0].at(0).context, zeros.prompting.cond[0].at(0).context[:, :77])
    assert relative_error(alone.states[-1], zeros.states[-1]) > 0.01


@pytest.mark.parametrize("use_t5", [True, False], ids=["T5", "without T5"])
@pytest.mark.parametrize("negative", ["", "a green hat"], ids=["empty negative", "negative"])
def test_an_sd3_trajectory_is_diffusers(engine: Engine, sd3: Any, use_t5: bool, negative: str):
    request = ask("sd3", negative_prompt=negative, use_t5=use_t5, shift=2.5)
    ours = run_pipeline(engine, request)
    info = job_of(engine, request).info
    assert info.t5 is not None
    with torch.no_grad():
        context, empty_context, pooled, empty_pooled = sd3.encode_prompt(
            GRAMMAR_FREE["prompt"], None, None, negative_prompt=negative, max_sequence_length=info.t5.min_length
        )
    # Without T5 we have the 77 CLIP tokens alone, as the models were trained; diffusers appends zeros (FORMATS.md 1.8).
    tokens = None if use_t5 else 77
    assert ours.prompting.cond[0].at(0).context.shape[1] == (tokens or 77 + info.t5.min_length)
    states, picture = follow(
        sd3, 16, ours.sigmas[:-1], prompt_embeds=context[:, :tokens], negative_prompt_embeds=empty_context[:, :tokens],
        pooled_prompt_embeds=pooled, negative_pooled_prompt_embeds=empty_pooled,
    )  # fmt: skip
    same_way(ours, states, picture)


def test_an_sd3_picture_is_diffusers(engine: Engine, sd3: Any):
    """Through ``Engine.generate`` from the bare prompt, T5 included."""
    request = ask("sd3", shift=3.0)
    picture = engine.generate(request).pictures[0].image
    sigmas = run_pipeline(engine, request).sigmas
    _, theirs = follow(sd3, 16, sigmas[:-1], prompt=GRAMMAR_FREE["prompt"], max_sequence_length=32)
    difference = np.abs(np.asarray(picture, dtype=np.float32) - theirs[0].numpy() * 255)
    assert difference.max() <= 1.0


@pytest.mark.parametrize("layers", ["1", "0,1"])
def test_skip_layer_guidance_is_diffusers(engine: Engine, sd3: Any, layers: str):
    """Where the two agree: diffusers leaves it out at CFG 1, where the reference and we have it."""
    request = ask("sd3", shift=2.5, skip_layers=layers, skip_layer_scale=2.8, skip_layer_start=0.1, skip_layer_end=0.7)
    ours = run_pipeline(engine, request)
    plain = run_pipeline(engine, ask("sd3", shift=2.5))
    assert [torch.equal(*states) for states in zip(ours.states, plain.states, strict=True)] == [True] + [False] * 4
    states, picture = follow(
        sd3, 16, ours.sigmas[:-1], prompt=GRAMMAR_FREE["prompt"], max_sequence_length=32,
        skip_guidance_layers=[int(layer) for layer in layers.split(",")], skip_layer_guidance_scale=2.8,
        skip_layer_guidance_start=0.1, skip_layer_guidance_stop=0.7,
    )  # fmt: skip
    same_way(ours, states, picture)
