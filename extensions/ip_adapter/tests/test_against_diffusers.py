"""From the prompt to the last latent with a picture as prompt: our engine against diffusers' whole pipelines.

The same weights, noise and sigmas; latents after every step agree to 1e-4 of the largest value.
"""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import Tensor

from backend.engine.run import Run
from extensions.ip_adapter.preprocessing import CLIP_LOOK, SIGLIP_LOOK, pixels_for
from extensions.ip_adapter.tests import networks
from extensions.ip_adapter.tests.conftest import shown
from tests.builders import tiny_clip_tokenizer, tiny_t5_tokenizer
from tests.engine.conftest import ask
from tests.families.running import Way, colours, run_job
from tests.oracles.diffusers_pipelines import sd1_pipeline, sd3_pipeline, sdxl_pipeline

pytestmark = [
    pytest.mark.oracle,
    pytest.mark.filterwarnings("ignore:__array:DeprecationWarning"),  # diffusers with numpy 2
]

TOLERANCE = 1e-4  # of the largest value
STEPS, SEED, WIDTH, HEIGHT = 5, 11, 96, 64
PROMPT, NEGATIVE = "a red fox, two hats", "a green hat"
CLIP_SIDE = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
SIGLIP_SIDE = {"size": {"height": 32, "width": 32}}


def clip_processor() -> Any:
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    return CLIPImageProcessorPil(**CLIP_SIDE)


def siglip_processor() -> Any:
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    return SiglipImageProcessorPil(**SIGLIP_SIDE)


@pytest.mark.parametrize("size", [(96, 64), (40, 90), (32, 32), (33, 64), (20, 21), (301, 200)])
def test_pictures_are_prepared_as_transformers_does(size):
    """To 1e-5: the same resampling, cut and numbers."""
    image = colours(*(8 * -(-side // 8) for side in size), seed=7).crop((0, 0, *size))
    for processor, look in ((clip_processor(), CLIP_LOOK), (siglip_processor(), SIGLIP_LOOK)):
        theirs = processor(image, return_tensors="pt", resample=3).pixel_values
        assert (pixels_for(image, look, 32) - theirs).abs().max() < 1e-5


def our_way(engine, checkpoint: str, panels: dict[str, dict[str, object]], **fields: object) -> Way:
    stored = {name: {"values": values} for name, values in panels.items()}
    common = {"prompt": PROMPT, "negative_prompt": NEGATIVE, "cfg_scale": 3.5, "steps": STEPS, "seed": SEED,
              "width": WIDTH, "height": HEIGHT}  # fmt: skip
    run = Run(engine, lambda _event: None, threading.Event(), None, "job")
    return run_job(engine, run.prepared(ask(checkpoint, extensions=stored, **(common | fields)))[0])


def follow(pipeline: Any, channels: int, sigmas: Tensor, **arguments: Any) -> list[Tensor]:
    noise = torch.randn((channels, HEIGHT // 8, WIDTH // 8), generator=torch.Generator().manual_seed(SEED))[None]
    states: list[Tensor] = []

    def keep(_pipeline: Any, _step: int, _timestep: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        states.append(tensors["latents"].clone())
        return {}

    pipeline.set_progress_bar_config(disable=True)
    pipeline(prompt=PROMPT, negative_prompt=NEGATIVE, guidance_scale=3.5, width=WIDTH, height=HEIGHT, latents=noise,
             sigmas=sigmas.tolist(), num_inference_steps=STEPS, output_type="latent", callback_on_step_end=keep,
             **arguments)  # fmt: skip
    return states


def same_way(ours: Way, theirs: list[Tensor], plain: Way) -> None:
    assert len(ours.states) == len(theirs) == STEPS
    for our_state, their_state in zip(ours.states, theirs, strict=True):
        assert (our_state - their_state).abs().max() < TOLERANCE * their_state.abs().max()
    assert (ours.states[-1] - plain.states[-1]).abs().max() > 100 * TOLERANCE * plain.states[-1].abs().max()


def parts(engine, checkpoint: str) -> tuple[Any, dict[Any, Any]]:
    info = engine.catalog.checkpoint(checkpoint)
    return info, {part: engine.manager.get(info, part) for part in info.sources}


def with_adapters(pipeline: Any, *names: str) -> Any:
    pipeline.register_modules(image_encoder=networks.clip(), feature_extractor=clip_processor())
    pipeline.unet._load_ip_adapter_weights([networks.nested(name) for name in names])
    return pipeline


@pytest.mark.parametrize("name", ["xl", "xl-plus", "xl-full"])
def test_an_sdxl_adapter_is_diffusers(engine, picture, name):
    unit = {"adapter": name, "picture": picture, "weight": 0.6}
    ours = our_way(engine, "tiny-xl", {"ip_adapter": unit})
    info, models = parts(engine, "tiny-xl")
    pipeline = with_adapters(sdxl_pipeline(info, models, tiny_clip_tokenizer()), name)
    pipeline.set_ip_adapter_scale(0.6)
    theirs = follow(pipeline, 4, ours.sigmas, ip_adapter_image=shown())
    same_way(ours, theirs, our_way(engine, "tiny-xl", {}))


def test_two_sdxl_adapters_add_up_as_in_diffusers(engine, picture):
    units = {"ip_adapter": {"adapter": "xl", "picture": picture, "weight": 0.6},
             "ip_adapter_2": {"adapter": "xl-plus", "picture": picture, "weight": 0.3}}  # fmt: skip
    ours = our_way(engine, "tiny-xl", units)
    info, models = parts(engine, "tiny-xl")
    pipeline = with_adapters(sdxl_pipeline(info, models, tiny_clip_tokenizer()), "xl", "xl-plus")
    pipeline.set_ip_adapter_scale([0.6, 0.3])
    theirs = follow(pipeline, 4, ours.sigmas, ip_adapter_image=[shown(), shown()])
    same_way(ours, theirs, our_way(engine, "tiny-xl", {}))


@pytest.mark.parametrize(
    ("taken", "scale"),
    [
        ("style only", {"up": {"block_0": [0.0, 0.6]}}),
        ("composition only", {"down": {"block_2": [0.6]}}),
        ("style and composition", {"up": {"block_0": [0.0, 0.6]}, "down": {"block_2": [0.6]}}),
    ],
)
def test_instant_styles_blocks_are_diffusers(engine, picture, taken, scale):
    unit = {"adapter": "xl", "picture": picture, "weight": 0.6, "weight_type": taken}
    ours = our_way(engine, "tiny-xl", {"ip_adapter": unit})
    info, models = parts(engine, "tiny-xl")
    pipeline = with_adapters(sdxl_pipeline(info, models, tiny_clip_tokenizer()), "xl")
    pipeline.set_ip_adapter_scale(scale)
    theirs = follow(pipeline, 4, ours.sigmas, ip_adapter_image=shown())
    same_way(ours, theirs, our_way(engine, "tiny-xl", {}))


def test_an_sd1_adapter_is_diffusers(engine, picture):
    ours = our_way(engine, "tiny-sd1", {"ip_adapter": {"adapter": "sd1", "picture": picture, "weight": 0.6}})
    info, models = parts(engine, "tiny-sd1")
    pipeline = with_adapters(sd1_pipeline(info, models, tiny_clip_tokenizer()), "sd1")
    pipeline.set_ip_adapter_scale(0.6)
    theirs = follow(pipeline, 4, ours.sigmas, ip_adapter_image=shown())
    same_way(ours, theirs, our_way(engine, "tiny-sd1", {}))


@pytest.mark.parametrize("checkpoint", ["tiny-sd3", "tiny-sd3-plain"])
def test_an_sd3_adapter_is_diffusers(engine, picture, checkpoint):
    """With normed queries, whose norm is taken back, and without; diffusers' feature extractor is ours here."""
    unit = {"adapter": "sd3", "picture": picture, "weight": 0.6}
    ours = our_way(engine, checkpoint, {"ip_adapter": unit}, shift=2.5)
    info, models = parts(engine, checkpoint)
    pipeline = sd3_pipeline(info, models, tiny_clip_tokenizer(), tiny_t5_tokenizer())
    pipeline.transformer._load_ip_adapter_weights(networks.nested("sd3"))
    pipeline.set_ip_adapter_scale(0.6)
    seen = networks.siglip()(pixels_for(shown(), SIGLIP_LOOK, 32), output_hidden_states=True).hidden_states[-2]
    theirs = follow(pipeline, 16, ours.sigmas[:-1], max_sequence_length=32,
                    ip_adapter_image_embeds=torch.cat([torch.zeros_like(seen), seen]))  # fmt: skip
    same_way(ours, theirs, our_way(engine, checkpoint, {}, shift=2.5))
