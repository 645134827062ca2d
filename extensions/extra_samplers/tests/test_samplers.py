"""Orders of convergence and right marginals on Gaussian data, and each sampler at work in the engine."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from backend.diffusion.noise import NoiseSource
from backend.diffusion.prediction import Prediction, VPrediction
from backend.diffusion.samplers import SAMPLERS, StepState
from extensions.extra_samplers.dpm import AdaptiveParameters
from extensions.extra_samplers.sa_solver import SaParameters
from extensions.extra_samplers.samplers import register_samplers
from extensions.extra_samplers.stochastic import TcdParameters
from tests.diffusion.gaussian import DISCRETE, FLOW, Gaussian, ignore, warped
from tests.engine.conftest import ask

ALL = {spec.name: spec for spec in register_samplers()}
ENDS = {"eps": (14.6, 0.02), "v": (14.6, 0.02), "flow": (1.0, 0.005)}
BOTH = pytest.mark.parametrize("prediction", [DISCRETE, FLOW], ids=["eps", "flow"])
NO_NOISE = SaParameters(tau=0.0, predictor=3, corrector=0)


def levels(prediction: Prediction, steps: int) -> Tensor:
    high, low = ENDS[prediction.kind]
    sigmas = warped(high, low, steps)
    sigmas[0] = high  # exactly: sigma = 1 is a case of its own on flow
    return sigmas


def run(name, gaussian, x, sigmas, noise=None, parameters=None, on_step=ignore) -> Tensor:
    sampler = ALL[name].with_parameters(parameters)
    source = noise or NoiseSource([0], (1, 1, 1))
    told = {"branches": dict} if ALL[name].reads_branches else {}  # of a step without guidance
    return sampler(gaussian.denoise, x, sigmas, prediction=gaussian.prediction, noise=source, on_step=on_step, **told)


def error(name: str, prediction: Prediction, steps: int, parameters=None) -> float:
    gaussian, sigmas = Gaussian(prediction), levels(prediction, steps)
    high, low = float(sigmas[0]), float(sigmas[-1])
    x = torch.full((1, 1, 1, 1), 0.7 * high, dtype=torch.float64)
    return float((run(name, gaussian, x, sigmas, parameters=parameters) - gaussian.flowed(x, high, low)).abs())


@BOTH
@pytest.mark.parametrize(
    ("name", "orders", "parameters"),
    [
        # The multistep methods begin with Euler's step, whose error is of second order where x is not pure noise's.
        ("deis", {"eps": 3.2, "flow": 2}, None),
        ("ipndm", {"eps": 2, "flow": 2.15}, None),
        ("res_multistep", {"eps": 2, "flow": 2}, None),
        ("gradient_estimation", {"eps": 1, "flow": 1}, None),
        ("heunpp2", {"eps": 1, "flow": 1.15}, None),
        ("sa_solver", {"eps": 3, "flow": 2}, NO_NOISE),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_sampler_converges_at_its_order(name, orders, parameters, prediction):
    slope = math.log2(error(name, prediction, 128, parameters) / error(name, prediction, 256, parameters))
    assert slope == pytest.approx(orders[prediction.kind], abs=0.15)


@BOTH
def test_dpm_fast_is_of_third_order_where_its_last_block_is_of_second(prediction):
    coarse, fine = error("dpm_fast", prediction, 125), error("dpm_fast", prediction, 251)
    assert math.log2(coarse / fine) == pytest.approx(3, abs=0.35)


@pytest.mark.parametrize("steps", range(1, 9))
def test_dpm_fast_makes_as_many_calls_as_there_are_steps(steps):
    calls, told = [], []
    sigmas = torch.cat([levels(DISCRETE, steps)[:-1], torch.zeros(1)])

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        calls.append(float(sigma))
        return Gaussian(DISCRETE).denoise(x, sigma)

    def tell(state: StepState) -> None:
        told.append(state.index)

    ALL["dpm_fast"].run(denoise, torch.ones(1, 1, 1, 1), sigmas, prediction=DISCRETE, noise=None, on_step=tell)
    assert len(calls) == steps
    assert told == sorted(set(told))
    assert told[-1] == steps - 1


@BOTH
def test_dpm_adaptive_keeps_to_its_tolerance_and_tells_of_every_level_it_passed(prediction):
    told: list[int] = []
    gaussian, sigmas = Gaussian(prediction), torch.cat([levels(prediction, 20), torch.zeros(1)])
    high, low = float(sigmas[0]), float(sigmas[-2])
    x = torch.full((1, 1, 1, 1), 0.7 * high, dtype=torch.float64)

    def tell(state: StepState) -> None:
        told.append(state.index)

    errors = [
        float((run("dpm_adaptive", gaussian, x, sigmas, parameters=values, on_step=tell) - clean).abs())
        for values in (AdaptiveParameters(), AdaptiveParameters(relative=0.001, absolute=0.0001))
        for clean in [gaussian.denoise(gaussian.flowed(x, high, low), sigmas[-2])]
    ]
    assert errors[1] < 2e-3
    assert errors[1] < errors[0] < 0.1
    assert told.count(20) == 2  # the last step of both runs


def draw(name: str, prediction: Prediction, steps: int) -> Tensor:
    """20,000 samples from the exact marginal at the first level, taken down to the last."""
    gaussian, sigmas = Gaussian(prediction), levels(prediction, steps)
    noise = NoiseSource([5], (4, 50, 100))
    high = float(sigmas[0])
    start = noise.initial.double() * math.sqrt(gaussian.variance(high)) + prediction.alpha(high) * gaussian.mean
    return run(name, gaussian, start, sigmas, noise)


def spread(x: Tensor, prediction: Prediction) -> float:
    return float(x.std()) / math.sqrt(Gaussian(prediction).variance(ENDS[prediction.kind][1]))


@BOTH
@pytest.mark.parametrize("name", ["dpm2_a", "sa_solver", "er_sde"])
def test_samples_have_the_right_mean_and_variance(name, prediction):
    coarse, fine = draw(name, prediction, 64), draw(name, prediction, 128)
    assert 2 * spread(fine, prediction) - spread(coarse, prediction) == pytest.approx(1, abs=0.015)
    assert spread(fine, prediction) == pytest.approx(1, abs=0.03)
    assert float(fine.mean()) == pytest.approx(0.3 * prediction.alpha(ENDS[prediction.kind][1]), abs=0.01)


@BOTH
@pytest.mark.parametrize(("eta", "same"), [(0.0, "euler"), (1.0, "lcm")])
def test_tcd_without_noise_is_euler_and_with_all_of_it_lcm(eta, same, prediction):
    gaussian = Gaussian(prediction)
    sigmas = torch.cat([levels(prediction, 6), torch.zeros(1, dtype=torch.float64)])
    x = torch.full((1, 4, 4, 4), 3.0, dtype=torch.float64)
    ours = run("tcd", gaussian, x, sigmas, NoiseSource([5], (4, 4, 4)), TcdParameters(eta=eta))
    core = SAMPLERS[same].run(
        gaussian.denoise, x, sigmas, prediction=prediction, noise=NoiseSource([5], (4, 4, 4)), on_step=ignore
    )
    torch.testing.assert_close(ours, core, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", sorted(ALL))
def test_sampler_runs_on_v_and_down_to_0(name):
    sigmas = torch.cat([levels(VPrediction(), 6), torch.zeros(1, dtype=torch.float64)])
    gaussian = Gaussian(VPrediction())
    noise = NoiseSource([5], (4, 8, 8))
    x = run(name, gaussian, 14.6 * noise.initial.double(), sigmas, noise)
    assert x.isfinite().all()
    assert float((x - 0.3).abs().mean()) < 2


@pytest.mark.parametrize("name", sorted(ALL))
def test_sampler_makes_the_same_picture_twice_on_both_families(engine, checkpoint, name):
    request = ask(checkpoint, sampler=name, steps=3)
    one, other = (np.asarray(engine.generate(request).pictures[0].image, dtype=np.int16) for _ in range(2))
    assert np.array_equal(one, other)
    euler = np.asarray(engine.generate(ask(checkpoint, steps=3)).pictures[0].image, dtype=np.int16)
    assert (one != euler).any()


@pytest.mark.parametrize("name", ["kl_optimal", "polyexponential", "align_your_steps"])
def test_schedules_work_in_the_engine(engine, checkpoint, name):
    assert len(engine.generate(ask(checkpoint, schedule=name, steps=3)).pictures) == 1
