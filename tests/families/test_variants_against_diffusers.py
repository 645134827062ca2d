"""Every kind of U-Net checkpoint from the prompt to the decoded picture, as diffusers does it with the same weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from backend.engine.engine import Engine
from backend.formats.configs import CheckpointInfo, UNetConfig
from tests.builders import tiny_clip_tokenizer
from tests.families.conftest import run_pipeline
from tests.families.running import job_of
from tests.families.test_against_diffusers import (
    GRAMMAR_FREE,
    HEIGHT,
    SEED,
    STEPS,
    WIDTH,
    ask,
    close,
    follow,
    relative_error,
    same_way,
)
from tests.oracles.diffusers_pipelines import sd1_pipeline, sdxl_pipeline

pytestmark = [
    pytest.mark.oracle,
    pytest.mark.filterwarnings("ignore:__array:DeprecationWarning"),  # diffusers with numpy 2
]


@pytest.fixture(scope="module")
def pipelines(engine: Engine) -> Any:
    """diffusers' pipeline of a checkpoint, by its name."""
    made: dict[str, Any] = {}

    def get(name: str) -> Any:
        if name not in made:
            info = engine.catalog.checkpoint(name)
            models = {part: engine.manager.get(info, part) for part in info.sources}
            build = sdxl_pipeline if info.family == "sdxl" else sd1_pipeline
            made[name] = build(info, models, tiny_clip_tokenizer())
        return made[name]

    return get


@pytest.mark.parametrize("negative", ["", "a green hat"], ids=["empty negative", "negative"])
@pytest.mark.parametrize("name", ["sd1", "sd2"])
def test_fact_4_conditioning_of_one_encoder_is_diffusers(engine: Engine, pipelines: Any, name: str, negative: str):
    """SD1: CLIP-L's last layer, SD2: CLIP-H's last but one, both normed; an empty negative prompt is encoded."""
    ours = run_pipeline(engine, ask(name, negative_prompt=negative)).prompting
    assert ours.uncond is not None
    with torch.no_grad():
        context, empty = pipelines(name).encode_prompt(
            GRAMMAR_FREE["prompt"], torch.device("cpu"), 1, True, negative_prompt=negative
        )
    close(ours.cond[0].at(0).context, context)
    close(ours.uncond.at(0).context, empty)
    assert ours.uncond.at(0).context.any()
    assert ours.cond[0].at(0).pooled is None


@pytest.mark.parametrize("name", ["sd1", "sd2"])
def test_fact_4_clip_skip_2_is_the_layer_before_the_last_with_the_final_norm(engine: Engine, pipelines: Any, name: str):
    info = engine.catalog.checkpoint(name)
    encoder = pipelines(name).text_encoder
    ids = pipelines(name).tokenizer([GRAMMAR_FREE["prompt"]], padding="max_length", max_length=77).input_ids
    with torch.no_grad():
        states = encoder(ids, output_hidden_states=True).hidden_states
        # SD2's folder has no last layer: what is its last state is our last but one.
        penultimate = encoder.final_layer_norm(states[-2 if info.family == "sd1" else -1])
    skipping = run_pipeline(engine, ask(name, clip_skip=2)).prompting.cond[0].at(0).context
    close(skipping, penultimate)
    last = run_pipeline(engine, ask(name, clip_skip=1)).prompting.cond[0].at(0).context
    assert relative_error(last, penultimate) > 0.01
    unnormed = states[-2 if info.family == "sd1" else -1]
    assert relative_error(skipping, unnormed) > 0.01


@pytest.mark.parametrize("negative", ["", "a green hat"], ids=["empty negative", "negative"])
@pytest.mark.parametrize("name", ["sd1", "sd2", "sd2-v"])
def test_a_trajectory_with_one_encoder_is_diffusers(engine: Engine, pipelines: Any, name: str, negative: str):
    ours = run_pipeline(engine, ask(name, negative_prompt=negative))
    states, picture = follow(pipelines(name), 4, ours.sigmas, prompt=GRAMMAR_FREE["prompt"], negative_prompt=negative)
    same_way(ours, states, picture)


@pytest.mark.parametrize("schedule", ["normal", "sgm_uniform"])
@pytest.mark.parametrize("name", ["sdxl-v", "sdxl-v-zsnr"])
def test_a_v_trajectory_is_diffusers(engine: Engine, pipelines: Any, name: str, schedule: str):
    """From sigma 4518 on, float32 rounds x by 2.4e-4 in the first step, here as there: the VAE makes 2e-4 of it."""
    ours = run_pipeline(engine, ask(name, schedule=schedule, negative_prompt="a green hat"))
    assert float(ours.sigmas[0]) > (4000 if name.endswith("zsnr") else 14)
    states, picture = follow(
        pipelines(name), 4, ours.sigmas, prompt=GRAMMAR_FREE["prompt"], negative_prompt="a green hat"
    )
    same_way(ours, states, picture, tolerance=5e-4 if name.endswith("zsnr") else 1e-4)


@pytest.mark.parametrize("name", ["cosxl", "playground"])
def test_an_edm_trajectory_is_diffusers(engine: Engine, pipelines: Any, name: str):
    """On diffusers' own Karras levels; it starts from noise times sqrt(sigma^2 + 1), which is taken out before."""
    ours = run_pipeline(engine, ask(name, schedule="karras", negative_prompt="a green hat"))
    high = float(ours.sigmas[0])
    noise = torch.randn((4, HEIGHT // 8, WIDTH // 8), generator=torch.Generator().manual_seed(SEED))[None]
    states: list[Tensor] = []

    def keep(_pipeline: Any, _step: int, _timestep: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        states.append(tensors["latents"].clone())
        return {}

    pipeline = pipelines(name)
    picture = pipeline(
        prompt=GRAMMAR_FREE["prompt"], negative_prompt="a green hat", latents=noise * high / (high**2 + 1) ** 0.5,
        num_inference_steps=STEPS, width=WIDTH, height=HEIGHT, guidance_scale=3.5, output_type="np",
        callback_on_step_end=keep,
    ).images  # fmt: skip
    torch.testing.assert_close(ours.sigmas, pipeline.scheduler.sigmas.float(), rtol=1e-4, atol=1e-6)
    same_way(ours, states, torch.from_numpy(picture))


@pytest.mark.parametrize("name", ["sdxl", "sdxl-v"])
def test_fact_1_the_persons_word_decides_what_is_computed(engine: Engine, pipelines: Any, name: str):
    """A v file set to eps gives the very picture of an eps file with its weights, and the other way about."""
    other = "sdxl-v" if name == "sdxl" else "sdxl"
    set_to = "v" if name == "sdxl" else "eps"
    left, right = run_pipeline(engine, ask(name, prediction=set_to)), run_pipeline(engine, ask(other))
    assert all(torch.equal(a, b) for a, b in zip(left.states, right.states, strict=True))
    assert not torch.equal(left.decoded, run_pipeline(engine, ask(name)).decoded)
    states, picture = follow(pipelines(other), 4, left.sigmas, prompt=GRAMMAR_FREE["prompt"])
    same_way(left, states, picture)


def test_the_persons_word_on_zero_terminal_snr_decides_what_is_computed(engine: Engine):
    ours = run_pipeline(engine, ask("sdxl-v", zero_terminal_snr=True, schedule="normal"))
    keyed = run_pipeline(engine, ask("sdxl-v-zsnr", schedule="normal"))
    assert all(torch.equal(a, b) for a, b in zip(ours.states, keyed.states, strict=True))
    off = run_pipeline(engine, ask("sdxl-v-zsnr", zero_terminal_snr=False, schedule="normal"))
    assert float(off.sigmas[0]) < 15


@pytest.mark.parametrize("name", ["cosxl", "playground"])
def test_what_an_edm_file_says_reaches_the_job(engine: Engine, name: str):
    job = job_of(engine, ask(name))
    info: CheckpointInfo = job.info
    assert isinstance(info.denoiser, UNetConfig)
    assert (job.prediction.kind, job.prediction.sigma_max) == (
        ("edm_v", pytest.approx(120)) if name == "cosxl" else ("edm", pytest.approx(80))
    )
    assert bool(info.latent.deviations) == (name == "playground")
