"""Orders of convergence and right marginals, where the exact answer is known (Gaussian data)."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from backend.diffusion.noise import NoiseSource
from backend.diffusion.prediction import Prediction
from backend.diffusion.samplers import SAMPLERS
from tests.diffusion.gaussian import DISCRETE, FLOW, Gaussian, ignore, run, warped

ENDS = {"eps": (14.6, 0.02), "flow": (1.0, 0.005)}
BOTH = pytest.mark.parametrize("prediction", [DISCRETE, FLOW], ids=["eps", "flow"])
CONVERGING_SDE = ("dpmpp_sde", "dpmpp_2m_sde", "dpmpp_3m_sde")


def levels(prediction: Prediction, steps: int) -> Tensor:
    high, low = ENDS[prediction.kind]
    sigmas = warped(high, low, steps)
    sigmas[0] = high  # exactly: sigma = 1 is a case of its own on flow
    return sigmas


def error(name: str, prediction: Prediction, steps: int) -> float:
    gaussian, sigmas = Gaussian(prediction), levels(prediction, steps)
    high, low = float(sigmas[0]), float(sigmas[-1])
    x = torch.full((1, 1, 1, 1), 0.7 * high, dtype=torch.float64)
    return float((run(name, gaussian, x, sigmas) - gaussian.flowed(x, high, low)).abs())


@pytest.mark.parametrize(
    ("name", "prediction", "order"),
    [
        ("euler", DISCRETE, 1),
        ("euler", FLOW, 1),
        ("ddim", DISCRETE, 1),
        ("ddim", FLOW, 1),
        ("heun", DISCRETE, 2),
        ("heun", FLOW, 2),
        ("dpm2", DISCRETE, 2),
        ("dpm2", FLOW, 2),
        ("dpmpp_2m", DISCRETE, 2),
        ("dpmpp_2m", FLOW, 2),
        # UniPC-3 is of order 4, but for its first step, of order 2, whose error vanishes at high sigma only.
        ("unipc", DISCRETE, 4),
        ("unipc", FLOW, 3),
        # LMS is of order 4, but for its first step, which is Euler's.
        ("lms", DISCRETE, 3.5),
        ("lms", FLOW, 2),
    ],
    ids=lambda value: getattr(value, "kind", str(value)),
)
def test_sampler_converges_at_its_order(name: str, prediction: Prediction, order: float) -> None:
    steps = 256 if name == "unipc" else 128
    slope = math.log2(error(name, prediction, steps) / error(name, prediction, 2 * steps))
    assert slope == pytest.approx(order, abs=0.15)


def draw(name: str, prediction: Prediction, steps: int) -> Tensor:
    """20,000 samples from the exact marginal at the first level, taken down to the last."""
    gaussian, sigmas = Gaussian(prediction), levels(prediction, steps)
    noise = NoiseSource([5], (4, 50, 100))
    high = float(sigmas[0])
    start = noise.initial.double() * math.sqrt(gaussian.variance(high)) + prediction.alpha(high) * gaussian.mean
    return run(name, gaussian, start, sigmas, noise)


def relative_spread(x: Tensor, prediction: Prediction) -> float:
    return float(x.std()) / math.sqrt(Gaussian(prediction).variance(ENDS[prediction.kind][1]))


@BOTH
@pytest.mark.parametrize("name", ["euler_a", "ddpm", "dpmpp_2s_a", *CONVERGING_SDE])
def test_samples_have_the_right_mean_and_variance(name: str, prediction: Prediction) -> None:
    """The error of the spread at N steps is first order: its extrapolation to infinite N must vanish."""
    coarse, fine = draw(name, prediction, 64), draw(name, prediction, 128)
    extrapolated = 2 * relative_spread(fine, prediction) - relative_spread(coarse, prediction)
    assert extrapolated == pytest.approx(1, abs=0.015)
    assert relative_spread(fine, prediction) == pytest.approx(1, abs=0.03)
    assert float(fine.mean()) == pytest.approx(0.3 * prediction.alpha(ENDS[prediction.kind][1]), abs=0.01)


@BOTH
def test_lcm_keeps_the_distribution_with_a_perfect_consistency_function(prediction: Prediction) -> None:
    gaussian = Gaussian(prediction)
    sigmas = torch.cat([levels(prediction, 4), torch.zeros(1, dtype=torch.float64)])
    noise = NoiseSource([5], (4, 50, 100))

    def jump(x: Tensor, sigma: Tensor) -> Tensor:
        return gaussian.flowed(x, float(sigma), 0.0)

    high = float(sigmas[0])
    start = noise.initial.double() * math.sqrt(gaussian.variance(high)) + prediction.alpha(high) * gaussian.mean
    x = SAMPLERS["lcm"].run(jump, start, sigmas, prediction=prediction, noise=noise, on_step=ignore)
    assert float(x.std()) == pytest.approx(gaussian.spread, rel=0.015)
    assert float(x.mean()) == pytest.approx(gaussian.mean, abs=0.015)


@BOTH
@pytest.mark.parametrize("name", CONVERGING_SDE)
def test_sde_samplers_approach_one_picture_as_steps_grow(name: str, prediction: Prediction) -> None:
    results = [draw(name, prediction, steps) for steps in (16, 32, 64)]
    changes = [float((a - b).pow(2).mean().sqrt()) for a, b in pairwise(results)]
    assert changes[1] < 0.6 * changes[0]


@pytest.mark.parametrize("name", ["euler_a", "ddpm", "dpmpp_2s_a", "lcm"])
def test_samplers_listed_as_not_converging_do_not(name: str) -> None:
    results = [draw(name, DISCRETE, steps) for steps in (16, 32, 64)]
    changes = [float((a - b).pow(2).mean().sqrt()) for a, b in pairwise(results)]
    assert changes[1] > 0.9 * changes[0]
    assert not SAMPLERS[name].converges


def test_the_table_says_what_converges() -> None:
    converging = {name for name, spec in SAMPLERS.items() if spec.converges}
    assert converging == {"euler", "heun", "dpmpp_2m", "unipc", "ddim", "dpm2", "lms", *CONVERGING_SDE}
