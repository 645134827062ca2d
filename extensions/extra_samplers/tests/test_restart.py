"""Restart: without restarts it is Heun; with them the marginal stays right and a seed stays a seed."""

from __future__ import annotations

import pytest
import torch

from backend.diffusion.noise import NoiseSource
from extensions.extra_samplers.restart import RestartParameters, sample_restart
from tests.diffusion.gaussian import DISCRETE, FLOW, Gaussian, ignore, run, warped

BOTH = pytest.mark.parametrize("prediction", [DISCRETE, FLOW], ids=["eps", "flow"])
LEVELS = {"eps": warped(14.6, 0.03, 24), "flow": warped(0.999, 0.01, 24)}


def restart(prediction, x, sigmas, count, seed=0, shape=(1, 1, 1)):
    noise = NoiseSource([seed], shape)
    parameters = RestartParameters(restarts=count, top=2.0 if prediction is DISCRETE else 0.6)
    gaussian = Gaussian(prediction)
    return sample_restart(
        gaussian.denoise, x, sigmas, prediction=prediction, noise=noise, on_step=ignore, parameters=parameters
    )


@BOTH
def test_without_restarts_it_is_heun(prediction):
    x = torch.full((1, 1, 1, 1), 3.0, dtype=torch.float64)
    sigmas = LEVELS[prediction.kind]
    assert torch.equal(restart(prediction, x, sigmas, 0), run("heun", Gaussian(prediction), x, sigmas))


@BOTH
def test_what_comes_out_has_the_datas_mean_and_spread(prediction):
    gaussian, sigmas = Gaussian(prediction), LEVELS[prediction.kind]
    high, low = float(sigmas[0]), float(sigmas[-1])
    start = torch.randn(1, 1, 200, 200, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x = gaussian.prediction.alpha(high) * gaussian.mean + start * gaussian.variance(high) ** 0.5
    x = restart(prediction, x, sigmas, 3, shape=(1, 200, 200))
    assert float(x.mean()) == pytest.approx(prediction.alpha(low) * gaussian.mean, abs=0.02)
    assert float(x.var()) == pytest.approx(gaussian.variance(low), rel=0.05)


def test_a_seed_gives_the_same_bits_and_another_other_ones():
    x, sigmas = torch.full((1, 1, 1, 1), 3.0), LEVELS["eps"]
    one, same, other = (restart(DISCRETE, x, sigmas, 2, seed) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
