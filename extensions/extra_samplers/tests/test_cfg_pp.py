"""CFG++ against its paper's formula, and what of a call's branches a sampler sees."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from backend.diffusion.noise import NoiseSource
from backend.diffusion.samplers import SAMPLERS
from extensions.extra_samplers.cfg_pp import CfgPlusPlusParameters, sample_euler_cfg_pp
from tests.diffusion.gaussian import DISCRETE, FLOW, ignore
from tests.engine.conftest import ask, mask_bytes, picture_bytes

SCALE, SHARE = 6.0, 0.1  # lambda 0.6
NOISE = NoiseSource([0], (4, 4, 4))


class Guided:
    """A prompt and a negative prompt whose clean latents are simple functions of x and sigma."""

    def cond(self, x: Tensor, sigma: float) -> Tensor:
        return 0.5 * torch.sin(x) + 0.3 / (1 + sigma)

    def uncond(self, x: Tensor, sigma: float) -> Tensor:
        return 0.4 * torch.cos(x) - 0.2 / (1 + sigma)

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        level = float(sigma)
        self.latest = {"cond": self.cond(x, level), "uncond": self.uncond(x, level)}
        return self.latest["uncond"] + SCALE * (self.latest["cond"] - self.latest["uncond"])


def sampled(guided, x: Tensor, sigmas: Tensor, prediction, branches) -> Tensor:
    return sample_euler_cfg_pp(
        guided, x, sigmas, prediction=prediction, noise=NOISE, on_step=ignore, branches=branches,
        parameters=CfgPlusPlusParameters(share=SHARE),
    )  # fmt: skip


def test_euler_cfg_pp_is_the_papers_algorithm_on_eps_models():
    guided, sigmas = Guided(), torch.tensor([14.0, 6.0, 2.0, 0.7, 0.1], dtype=torch.float64)
    x = 14.0 * torch.randn(2, 4, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    bars = [1 / (1 + float(sigma) ** 2) for sigma in sigmas]  # the paper's alpha_bar
    z = x * bars[0] ** 0.5
    for i, (bar, following) in enumerate(pairwise(bars)):
        ours, level = z / bar**0.5, float(sigmas[i])
        eps_uncond = (z - bar**0.5 * guided.uncond(ours, level)) / (1 - bar) ** 0.5
        eps_cond = (z - bar**0.5 * guided.cond(ours, level)) / (1 - bar) ** 0.5
        eps = eps_uncond + SCALE * SHARE * (eps_cond - eps_uncond)
        clean = (z - (1 - bar) ** 0.5 * eps) / bar**0.5
        z = following**0.5 * clean + (1 - following) ** 0.5 * eps_uncond
    expected = z / bars[-1] ** 0.5
    actual = sampled(guided, x, sigmas, DISCRETE, lambda: guided.latest)
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


def test_euler_cfg_pp_lays_the_negative_prompts_noise_over_flow_latents():
    guided, sigmas = Guided(), torch.tensor([1.0, 0.6, 0.2, 0.0], dtype=torch.float64)
    x = torch.randn(2, 4, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = x
    for t, following in pairwise(sigmas.tolist()):
        v_uncond = (expected - guided.uncond(expected, t)) / t  # noise - clean
        v = v_uncond + SCALE * SHARE * ((expected - guided.cond(expected, t)) / t - v_uncond)
        noise = expected + (1 - t) * v_uncond
        expected = (1 - following) * (expected - t * v) + following * noise
    actual = sampled(guided, x, sigmas, FLOW, lambda: guided.latest)
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("prediction", "top"), [(DISCRETE, 14.0), (FLOW, 1.0)], ids=["eps", "flow"])
def test_without_a_negative_prompt_it_is_euler(prediction, top):
    guided, sigmas = Guided(), torch.tensor([top, top / 2, top / 9, 0.0], dtype=torch.float64)
    x = torch.randn(1, 4, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    euler = SAMPLERS["euler"].run(guided, x, sigmas, prediction=prediction, noise=NOISE, on_step=ignore)
    torch.testing.assert_close(sampled(guided, x, sigmas, prediction, dict), euler, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("fields", [{"cfg_scale": 1.0}, {"guidance_start": 1.0}])
def test_where_nothing_is_guided_the_picture_is_eulers(engine, checkpoint, fields):
    ours, euler = (
        picture(engine, ask(checkpoint, sampler=name, steps=3, **fields)) for name in ("euler_cfg_pp", "euler")
    )
    assert np.abs(ours - euler).max() <= 1


@pytest.mark.parametrize("fields", [{}, {"prompt": "a fox AND a cat:0.5"}, {"guidance_end": 0.5}, {"batch_size": 2}])
def test_a_share_of_1_over_the_scale_steers_as_the_prompt_alone(engine, checkpoint, fields):
    """Its clean latents are then those of the AND-joined prompts, with the negative prompt's noise."""
    values = {"euler_cfg_pp": {"values": {"share": 1 / 3}}}
    asked = ask(checkpoint, sampler="euler_cfg_pp", steps=1, extensions=values, **fields)
    alone = ask(checkpoint, sampler="euler", steps=1, **(fields | {"cfg_scale": 1.0}))
    assert np.abs(picture(engine, asked) - picture(engine, alone)).max() <= 1


def test_an_inpaint_mask_keeps_what_it_keeps(engine, checkpoint):
    image, mask = (engine.inputs.store(data).sha256 for data in (picture_bytes(), mask_bytes((16, 16, 48, 48))))
    fields = {"init_image": image, "mask": mask, "mask_blur": 0, "steps": 3, "denoise": 1.0}
    ours, euler = (picture(engine, ask(checkpoint, sampler=name, **fields)) for name in ("euler_cfg_pp", "euler"))
    kept = np.ones(ours.shape[:2], dtype=bool)
    kept[16:48, 16:48] = False
    assert np.array_equal(ours[kept], euler[kept])
    assert (ours[~kept] != euler[~kept]).any()


def picture(engine, request) -> np.ndarray:
    return np.asarray(engine.generate(request).pictures[0].image, dtype=np.int16)
