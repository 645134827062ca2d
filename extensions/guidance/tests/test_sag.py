"""Self-attention guidance against diffusers, its formula, and in an engine."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from backend.diffusion.patching import QKV, AfterGuidance, AttentionOutput, Call, Outputs, Place
from extensions.guidance.sag import SagParameters, attention_received, blurred, sag_patches
from tests.engine.conftest import ask

SIDE, HEADS = 8, 2
PLACE = Place("middle.0", "middle", 4, 0.5, 2, attention="self")
CALL = Call(0, 4, 2.0, ("uncond",), 1, SIDE, SIDE, text_tokens=0)
MODEL = SimpleNamespace(places=[PLACE])


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def qkv(text: int = 0) -> QKV:
    tokens = text + (SIDE // 2) ** 2
    return QKV(*(2 * drawn(1, HEADS, tokens, 6, seed=seed) for seed in range(3)))


@pytest.mark.oracle
def test_the_degraded_latent_is_diffusers(monkeypatch):
    from diffusers import DDPMScheduler, StableDiffusionSAGPipeline

    alpha_bars = DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012).alphas_cumprod
    t = 400
    bar = alpha_bars[t].double()
    sigma = float(((1 - bar) / bar).sqrt())
    clean, eps, tokens = drawn(1, 4, SIDE, SIDE), drawn(1, 4, SIDE, SIDE, seed=7), qkv()
    scores = (tokens.q @ tokens.k.transpose(2, 3) * 6**-0.5).softmax(dim=-1)[0]  # (heads, N, N)
    pipe = SimpleNamespace(
        unet=SimpleNamespace(config=SimpleNamespace(attention_head_dim=HEADS)),
        scheduler=DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012),
    )
    theirs = StableDiffusionSAGPipeline.sag_masking(
        pipe, clean, scores, (SIDE // 2, SIDE // 2), torch.tensor(t), eps
    )  # latent scaled by sqrt(alpha_bar)
    asked: list[Tensor] = []

    def evaluate(x: Tensor, branch: str) -> Tensor:
        assert branch == "uncond"
        asked.append(x)
        return x * 0.25

    look, term = sag_patches(SagParameters(scale=0.75), MODEL)  # type: ignore[arg-type]  # places are all it reads
    assert isinstance(look, AttentionOutput)
    assert isinstance(term, AfterGuidance)
    look.change(tokens.v, tokens, PLACE, CALL)
    outputs = Outputs({"cond": clean, "uncond": clean}, clean + sigma * eps, sigma, 5.0, 0, 4, 1.0, evaluate)
    guided = term.change(torch.zeros_like(clean), outputs)
    torch.testing.assert_close(asked[0] * bar.sqrt(), theirs.double(), rtol=1e-5, atol=1e-5)
    # In noise: guided + scale * (eps - eps of the degraded latent), as the pipeline adds it up.
    eps_degraded = (asked[0] - asked[0] * 0.25) / sigma
    torch.testing.assert_close(guided, -sigma * 0.75 * (eps - eps_degraded), rtol=1e-6, atol=1e-6)


def test_flow_keeps_the_noise_of_the_degraded_latent():
    clean, noise, sigma, tokens = drawn(1, 4, SIDE, SIDE), drawn(1, 4, SIDE, SIDE, seed=7), 0.6, qkv()
    asked: list[Tensor] = []
    look, term = sag_patches(SagParameters(threshold=0.0, blur=2.0), MODEL)  # type: ignore[arg-type]
    assert isinstance(look, AttentionOutput)
    assert isinstance(term, AfterGuidance)
    look.change(tokens.v, tokens, PLACE, CALL)
    x = (1 - sigma) * clean + sigma * noise

    def evaluate(x: Tensor, branch: str) -> Tensor:
        asked.append(x)
        return x

    term.change(clean, Outputs({"cond": clean, "uncond": clean}, x, sigma, 5.0, 0, 4, 1 - sigma, evaluate))
    torch.testing.assert_close(asked[0], (1 - sigma) * blurred(clean, 2.0) + sigma * noise)


def test_attention_between_image_tokens_alone_counts():
    text, whole = 3, qkv(3)
    scores = (whole.q @ whole.k.transpose(2, 3) * 6**-0.5).softmax(dim=-1)[:, :, text:, text:]
    expected = scores.sum(dim=2).mean(dim=1)
    received = attention_received(whole, text)
    torch.testing.assert_close(received.double(), expected / expected.mean(), rtol=1e-5, atol=1e-5)
    assert float(received.mean()) == pytest.approx(1)


@pytest.mark.parametrize(
    "fields",
    [
        {"cfg_scale": 1.0},
        {"prompt": "a fox AND a cat:0.5"},
        {"sampler": "heun"},
        {"batch_size": 2},
        {"guidance_end": 0.5},
    ],
    ids=str,
)
def test_it_acts_wherever_the_step_stands(engine, checkpoint, fields):
    extensions = {"sag": {"values": {"scale": 3.0}}}
    plain = picture(engine, ask(checkpoint, **fields))
    changed = picture(engine, ask(checkpoint, extensions=extensions, **fields))
    assert (changed != plain).any()
    assert np.array_equal(picture(engine, ask(checkpoint, extensions=extensions, **fields)), changed)


def test_beside_the_step_cache_both_save_and_steer(engine, checkpoint):
    sag, cache = {"sag": {"values": {"scale": 3.0}}}, {"step_cache": {"values": {"interval": 3, "threshold": 2.0}}}
    both = engine.generate(ask(checkpoint, steps=6, extensions=sag | cache))
    alone = engine.generate(ask(checkpoint, steps=6, extensions=cache))
    assert both.notes == alone.notes  # the same share of the work is skipped, the second call's too
    assert (np.asarray(both.pictures[0].image) != np.asarray(alone.pictures[0].image)).any()


def picture(engine, request) -> np.ndarray:
    return np.asarray(engine.generate(request).pictures[0].image, dtype=np.int16)
