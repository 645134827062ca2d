"""From the prompt to the last latent with a guidance network: our engine against diffusers' whole pipelines.

The same weights, noise and sigmas; latents after every step agree to 1e-4 of the largest value.
"""

from __future__ import annotations

import inspect
import threading
from typing import Any

import pytest
import torch
from torch import Tensor

from backend.engine.run import Run
from backend.request import GenerationRequest
from extensions.controlnet.tests.networks import diffusers_network
from tests.builders import tiny_clip_tokenizer, tiny_t5_tokenizer
from tests.engine.conftest import ask, encoded
from tests.families.running import Way, colours, run_job
from tests.oracles.diffusers_pipelines import sd3_pipeline, sdxl_pipeline

pytestmark = [
    pytest.mark.oracle,
    pytest.mark.filterwarnings("ignore:__array:DeprecationWarning"),  # diffusers with numpy 2
]

TOLERANCE = 1e-4  # of the largest value
STEPS, SEED, WIDTH, HEIGHT = 5, 11, 96, 64
PROMPT, NEGATIVE = "a red fox, two hats", "a green hat"


@pytest.fixture(scope="module")
def sdxl(engine) -> Any:
    info = engine.catalog.checkpoint("tiny-xl")
    return sdxl_pipeline(info, {part: engine.manager.get(info, part) for part in info.sources}, tiny_clip_tokenizer())


@pytest.fixture(scope="module")
def sd3(engine) -> Any:
    info = engine.catalog.checkpoint("tiny-sd3")
    models = {part: engine.manager.get(info, part) for part in info.sources}
    return sd3_pipeline(info, models, tiny_clip_tokenizer(), tiny_t5_tokenizer())


@pytest.fixture(scope="module")
def hint(engine) -> tuple[str, Tensor]:
    """A stored picture of the size that is made, and its pixels, (1, 3, H, W), 0 to 1."""
    image = colours(WIDTH, HEIGHT, seed=4)
    pixels = torch.tensor(list(image.tobytes()), dtype=torch.float32).view(HEIGHT, WIDTH, 3).permute(2, 0, 1)[None]
    return engine.inputs.store(encoded(image)).sha256, pixels / 255


def our_way(engine, checkpoint: str, panels: dict[str, dict[str, object]], **fields: object) -> Way:
    """Our latents, for a request with units."""
    stored = {name: {"values": {"preprocessor": "none"} | values} for name, values in panels.items()}
    common = {"prompt": PROMPT, "negative_prompt": NEGATIVE, "cfg_scale": 3.5, "steps": STEPS, "seed": SEED,
              "width": WIDTH, "height": HEIGHT}  # fmt: skip
    request: GenerationRequest = ask(checkpoint, extensions=stored, **(common | fields))
    run = Run(engine, lambda _event: None, threading.Event(), None, "job")
    return run_job(engine, run.prepared(request)[0])


def follow(pipeline: Any, channels: int, sigmas: Tensor, **arguments: Any) -> list[Tensor]:
    """diffusers' latents after each step."""
    noise = torch.randn((channels, HEIGHT // 8, WIDTH // 8), generator=torch.Generator().manual_seed(SEED))[None]
    states: list[Tensor] = []

    def keep(_pipeline: Any, _step: int, _timestep: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        states.append(tensors["latents"].clone())
        return {}

    common = {"prompt": PROMPT, "negative_prompt": NEGATIVE, "guidance_scale": 3.5, "width": WIDTH, "height": HEIGHT}
    if "callback_on_step_end" in inspect.signature(pipeline.__call__).parameters:
        common["callback_on_step_end"] = keep
    else:  # the T2I-Adapter's pipeline has the older kind
        common |= {"callback": lambda _step, _timestep, latents: states.append(latents.clone()), "callback_steps": 1}
    pipeline.set_progress_bar_config(disable=True)
    pipeline(
        latents=noise, sigmas=sigmas.tolist(), num_inference_steps=STEPS, output_type="latent", **common | arguments
    )
    return states


def same_way(ours: Way, theirs: list[Tensor], plain: Way) -> None:
    assert len(ours.states) == len(theirs) == STEPS
    for our_state, their_state in zip(ours.states, theirs, strict=True):
        assert (our_state - their_state).abs().max() < TOLERANCE * their_state.abs().max()
    assert (ours.states[-1] - plain.states[-1]).abs().max() > 100 * TOLERANCE * plain.states[-1].abs().max()


@pytest.mark.parametrize(("start", "end"), [(0.0, 1.0), (0.2, 0.6)], ids=["always", "in a window"])
def test_an_sdxl_controlnet_is_diffusers(engine, sdxl, hint, start, end):
    from diffusers import StableDiffusionXLControlNetPipeline

    sha256, pixels = hint
    unit = {"network": "edges-xl-diffusers", "picture": sha256, "weight": 0.5, "start": start, "end": end}
    ours = our_way(engine, "tiny-xl", {"controlnet": unit})
    guided = StableDiffusionXLControlNetPipeline(
        **sdxl.components, controlnet=diffusers_network("edges-xl-diffusers"), add_watermarker=False
    )
    theirs = follow(guided, 4, ours.sigmas, image=pixels, controlnet_conditioning_scale=0.5,
                    control_guidance_start=start, control_guidance_end=end)  # fmt: skip
    same_way(ours, theirs, our_way(engine, "tiny-xl", {}))


def test_two_sdxl_controlnets_are_diffusers(engine, sdxl, hint):
    from diffusers import StableDiffusionXLControlNetPipeline

    sha256, pixels = hint
    one = {"network": "edges-xl-diffusers", "picture": sha256, "weight": 0.5}
    other = {"network": "edges-xl-diffusers", "picture": sha256, "weight": 0.3, "preprocessor": "invert"}
    ours = our_way(engine, "tiny-xl", {"controlnet": one, "controlnet_2": other})
    network = diffusers_network("edges-xl-diffusers")
    guided = StableDiffusionXLControlNetPipeline(
        **sdxl.components, controlnet=[network, network], add_watermarker=False
    )
    theirs = follow(guided, 4, ours.sigmas, image=[pixels, 1 - pixels], controlnet_conditioning_scale=[0.5, 0.3])
    same_way(ours, theirs, our_way(engine, "tiny-xl", {}))


def test_an_sdxl_t2i_adapter_is_diffusers(engine, sdxl, hint):
    from diffusers import StableDiffusionXLAdapterPipeline

    sha256, pixels = hint
    ours = our_way(engine, "tiny-xl", {"controlnet": {"network": "t2i", "picture": sha256, "weight": 0.4}})
    guided = StableDiffusionXLAdapterPipeline(**sdxl.components, adapter=diffusers_network("t2i"))
    theirs = follow(guided, 4, ours.sigmas, image=pixels, adapter_conditioning_scale=0.4)
    same_way(ours, theirs, our_way(engine, "tiny-xl", {}))


@pytest.mark.parametrize(("shows", "task"), [("depth", 1), ("lines", 3), ("repaint", 7)])
def test_an_sdxl_union_network_is_diffusers(engine, sdxl, hint, shows, task):
    """With the tasks' attention over a picture's own tasks; as published it is over the pictures of a batch."""
    from diffusers import StableDiffusionXLControlNetUnionPipeline

    sha256, pixels = hint
    unit = {"network": "promax", "picture": sha256, "weight": 0.5, "shows": shows}
    ours = our_way(engine, "tiny-xl", {"controlnet": unit})
    network = diffusers_network("promax")
    for layer in network.transformer_layes:
        layer.attn.batch_first = True
    guided = StableDiffusionXLControlNetUnionPipeline(**sdxl.components, controlnet=network, add_watermarker=False)
    theirs = follow(
        guided, 4, ours.sigmas, control_image=[pixels], control_mode=[task], controlnet_conditioning_scale=0.5
    )
    same_way(ours, theirs, our_way(engine, "tiny-xl", {}))


@pytest.mark.parametrize("network", ["joint-first", "depth-8b-first"])
def test_an_sd3_controlnet_is_diffusers(engine, sd3, hint, network, monkeypatch):
    """Its second residual is 0: diffusers leaves the last block out, the reference does not (FORMATS.md, 1.11)."""
    from diffusers import StableDiffusion3ControlNetPipeline
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

    monkeypatch.setattr(DiagonalGaussianDistribution, "sample", lambda self, generator=None: self.mode())
    sha256, pixels = hint
    unit = {"network": network, "picture": sha256, "weight": 0.5}
    ours = our_way(engine, "tiny-sd3", {"controlnet": unit}, shift=2.5)
    guided = StableDiffusion3ControlNetPipeline(**sd3.components, controlnet=diffusers_network(network))
    theirs = follow(guided, 16, ours.sigmas[:-1], control_image=2 * pixels - 1, controlnet_conditioning_scale=0.5,
                    max_sequence_length=32)  # fmt: skip
    same_way(ours, theirs, our_way(engine, "tiny-sd3", {}, shift=2.5))
