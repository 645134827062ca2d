"""DEIS, IPNDM, SA-Solver and TCD against diffusers' schedulers, state by state, on the same levels.

diffusers' DEIS and SA-Solver have NaN or another order in the step to 0: the states before it are compared. Its IPNDM
runs on a schedule of its own, whose levels are given to both; its TCD rounds timesteps, so that it is given whole ones.
"""

from __future__ import annotations

import diffusers
import pytest
import torch
from torch import Tensor

from backend.diffusion.noise import NoiseSource
from backend.diffusion.prediction import EpsPrediction
from backend.diffusion.samplers.spec import StepState
from backend.diffusion.schedules import karras
from extensions.extra_samplers.sa_solver import SaParameters
from extensions.extra_samplers.samplers import register_samplers
from extensions.extra_samplers.stochastic import TcdParameters
from tests.diffusion.samplers.test_against_diffusers import (
    BOTH,
    SEED,
    SHAPE,
    STEPS,
    TRAINING,
    assert_same,
    network,
    one_call,
    prepared,
    their_states,
)

pytestmark = [
    pytest.mark.oracle,
    pytest.mark.filterwarnings("ignore:__array:DeprecationWarning"),  # diffusers with numpy 2
    pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning"),  # in its step to 0
]
ALL = {spec.name: spec for spec in register_samplers()}


def our_states(name, prediction, sigmas, parameters=None) -> list[Tensor]:
    noise = NoiseSource([SEED], SHAPE)
    states: list[Tensor] = []

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        return prediction.denoised(network(x * prediction.input_scale(sigma), sigma), x, sigma)

    def keep(state: StepState) -> None:
        states.append(state.x)

    x = prediction.start(noise.initial, sigmas[0])
    ALL[name].with_parameters(parameters)(denoise, x, sigmas, prediction=prediction, noise=noise, on_step=keep)
    return states


@BOTH
def test_deis_matches_diffusers(prediction):
    sigmas = karras(prediction, 16)  # diffusers lowers the order at the end of fewer than 15 steps
    scheduler = prepared("DEISMultistepScheduler", prediction, sigmas, 16, solver_order=3)
    theirs = their_states(scheduler, prediction, sigmas, one_call(sigmas), preserving=True)
    assert_same(our_states("deis", prediction, sigmas)[:-1], theirs[:-1])


@BOTH
@pytest.mark.parametrize(("tau", "order"), [(0.0, 3), (1.0, 2), (0.7, 3)])
def test_sa_solver_matches_diffusers(prediction, tau, order):
    sigmas = karras(prediction, STEPS)
    scheduler = prepared(
        "SASolverScheduler", prediction, sigmas, STEPS, predictor_order=order, corrector_order=order,
        tau_func=lambda _: tau, algorithm_type="data_prediction",
    )  # fmt: skip
    theirs = their_states(scheduler, prediction, sigmas, one_call(sigmas), preserving=True, generator=None)
    parameters = SaParameters(tau=tau, start=0.0, end=1.0, predictor=order, corrector=order)
    assert_same(our_states("sa_solver", prediction, sigmas, parameters)[:-1], theirs[:-1])


def test_ipndm_matches_diffusers():
    """Its sample is preserving, with alpha^2 + beta^2 = 1; what it wants of the network is (eps - beta x) / alpha."""
    prediction = EpsPrediction()
    sigmas = karras(prediction, STEPS)
    scheduler = diffusers.IPNDMScheduler()
    scheduler.set_timesteps(STEPS)
    scheduler.alphas = (1 + sigmas**2).rsqrt()
    scheduler.betas = sigmas * scheduler.alphas
    scheduler.timesteps = torch.arange(STEPS, 0, -1)
    x = NoiseSource([SEED], SHAPE).initial * scheduler.betas[0]
    theirs: list[Tensor] = []
    for i, timestep in enumerate(scheduler.timesteps):
        output = (network(x, sigmas[i]) - scheduler.betas[i] * x) / scheduler.alphas[i]
        x = scheduler.step(output, timestep, x).prev_sample
        theirs.append(x / scheduler.alphas[i + 1])
    assert_same(our_states("ipndm", prediction, sigmas), theirs)


@BOTH
@pytest.mark.parametrize("eta", [0.0, 0.5])
def test_tcd_matches_diffusers(prediction, eta):
    """Of eta 1 its last level is that of timestep 0, not 0; see test_samplers.py, where it is the core's LCM."""
    timesteps = [900, 700, 500, 300, 100]
    levels = [*prediction.sigmas[timesteps].tolist(), 0.0]
    kind = {"eps": "epsilon", "v": "v_prediction"}[prediction.kind]
    scheduler = diffusers.TCDScheduler(**TRAINING, prediction_type=kind, clip_sample=False)
    scheduler.set_timesteps(timesteps=timesteps, original_inference_steps=1000)
    sigmas = torch.tensor(levels)
    calls = one_call(sigmas)
    theirs = their_states(scheduler, prediction, sigmas, calls, preserving=True, generator=None, eta=eta)
    ours = our_states("tcd", prediction, sigmas, TcdParameters(eta=eta))
    assert_same(ours[:-1], theirs[:-1])
