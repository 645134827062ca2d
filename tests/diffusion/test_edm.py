"""EDM kinds: the paper's formulas, diffusers' schedulers on the same network, and what the schedules mean there."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from backend.diffusion.edm import EdmPrediction, EdmVPrediction
from backend.diffusion.samplers.dpmpp import sample_dpmpp_2m
from backend.diffusion.samplers.euler import sample_euler
from backend.diffusion.schedules import SCHEDULES

PLAYGROUND, COSXL = EdmPrediction(), EdmVPrediction(0.002, 120.0)
BOTH = pytest.mark.parametrize("prediction", [PLAYGROUND, COSXL], ids=["edm", "edm v"])
ORACLE = [
    pytest.mark.oracle,
    pytest.mark.filterwarnings("ignore:__array:DeprecationWarning"),  # diffusers with numpy 2
]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("sigma", [0.002, 0.3, 1.0, 14.6, 79.0])
def test_edm_is_table_1_of_the_paper(sigma: float) -> None:
    x, output, data = draw(2, 4, 5, 5), draw(2, 4, 5, 5, seed=1), 0.5
    whole = sigma**2 + data**2
    expected = data**2 / whole * x + sigma * data / math.sqrt(whole) * output
    level = torch.tensor(sigma, dtype=torch.float64)
    torch.testing.assert_close(PLAYGROUND.denoised(output, x, level), expected, rtol=1e-12, atol=1e-12)
    assert float(PLAYGROUND.input_scale(level)) == pytest.approx(1 / math.sqrt(whole), rel=1e-12)
    assert float(PLAYGROUND.timestep(level)) == pytest.approx(math.log(sigma) / 4, rel=1e-6)


@pytest.mark.parametrize("sigma", [0.002, 0.3, 1.0, 14.6, 119.0])
def test_edm_v_is_v_prediction_told_a_quarter_of_log_sigma(sigma: float) -> None:
    x, output = draw(2, 4, 5, 5), draw(2, 4, 5, 5, seed=1)
    level = torch.tensor(sigma, dtype=torch.float64)
    expected = x / (sigma**2 + 1) - output * sigma / math.sqrt(sigma**2 + 1)
    torch.testing.assert_close(COSXL.denoised(output, x, level), expected, rtol=1e-12, atol=1e-12)
    assert float(COSXL.input_scale(level)) == pytest.approx(1 / math.sqrt(sigma**2 + 1), rel=1e-12)
    assert float(COSXL.timestep(level)) == pytest.approx(math.log(sigma) / 4, rel=1e-6)


@BOTH
def test_ends_and_schedules_are_between_the_files_own_levels(prediction: EdmPrediction) -> None:
    low, high = prediction.sigma_min, prediction.sigma_max
    assert float(prediction.sigmas[0]) == pytest.approx(low, rel=1e-12)
    assert float(prediction.sigmas[-1]) == pytest.approx(high, rel=1e-12)
    for name, spec in SCHEDULES.items():
        sigmas = spec.make(prediction, 8)
        assert sigmas.shape == (9,), name
        assert bool((sigmas.diff() < 0).all()), name
        assert low * 0.999 <= float(sigmas[-2]), name
        assert float(sigmas[0]) <= high * 1.001, name
    for name in ("normal", "exponential", "karras"):
        made = SCHEDULES[name].make(prediction, 8)
        assert float(made[0]) == pytest.approx(high, rel=1e-5)
        assert float(made[-2]) == pytest.approx(low, rel=1e-5)
    # without a table, even timesteps are even steps of log sigma
    exponential = SCHEDULES["exponential"].make(prediction, 8)
    torch.testing.assert_close(SCHEDULES["normal"].make(prediction, 8), exponential, rtol=1e-5, atol=0)


@pytest.mark.parametrize("low", [0.0, -1.0, 80.0])
def test_levels_that_do_not_rise_are_refused(low: float) -> None:
    with pytest.raises(ValueError, match="rise"):
        EdmPrediction(low, 80.0)


# -- whole trajectories against diffusers, the network being any function of its scaled input and c_noise


def network(x: Tensor, timestep: Tensor) -> Tensor:
    return torch.tanh(x.roll(1, dims=-1) + 0.3 * timestep) - 0.2 * x


def ours(prediction: EdmPrediction, sampler: Callable[..., Tensor], x: Tensor, sigmas: Tensor) -> list[Tensor]:
    states: list[Tensor] = []

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        output = network(x * prediction.input_scale(sigma), prediction.timestep(sigma))
        return prediction.denoised(output, x, sigma)

    sampler(denoise, x, sigmas, on_step=lambda state: states.append(state.x.clone()))
    return states


def theirs(scheduler: Any, x: Tensor) -> list[Tensor]:
    states: list[Tensor] = []
    for timestep in scheduler.timesteps:
        output = network(scheduler.scale_model_input(x, timestep), timestep)
        x = scheduler.step(output, timestep, x, return_dict=False)[0]
        states.append(x.clone())
    return states


def scheduler_for(kind: str, prediction: EdmPrediction, spacing: str) -> Any:
    classes = {"euler": diffusers.EDMEulerScheduler, "dpmpp_2m": diffusers.EDMDPMSolverMultistepScheduler}
    scheduler = classes[kind](
        sigma_min=prediction.sigma_min, sigma_max=prediction.sigma_max, sigma_data=prediction.sigma_data,
        prediction_type="v_prediction" if prediction.kind == "edm_v" else "epsilon", sigma_schedule=spacing,
    )  # fmt: skip
    scheduler.set_timesteps(10)
    return scheduler


@pytest.mark.parametrize("spacing", ["karras", "exponential"])
@BOTH
class TestTrajectories:
    """Same start, same number of steps, each with its own schedule; 1e-5 of the largest value at every step."""

    pytestmark = ORACLE

    def run(self, kind: str, sampler: Callable[..., Tensor], prediction: EdmPrediction, spacing: str) -> None:
        scheduler = scheduler_for(kind, prediction, spacing)
        sigmas = SCHEDULES[spacing].make(prediction, 10)
        torch.testing.assert_close(sigmas, scheduler.sigmas.float(), rtol=1e-4, atol=1e-6)
        sigmas = scheduler.sigmas.float()  # theirs are rounded to float32 early: compare the steps, not the rounding
        x = (draw(1, 4, 6, 7) * float(sigmas[0])).float()
        for our_state, their_state in zip(ours(prediction, sampler, x, sigmas), theirs(scheduler, x), strict=True):
            assert float((our_state - their_state).abs().max() / their_state.abs().max()) < 1e-5

    def test_euler_is_diffusers(self, prediction: EdmPrediction, spacing: str) -> None:
        self.run("euler", sample_euler, prediction, spacing)

    def test_dpmpp_2m_is_diffusers(self, prediction: EdmPrediction, spacing: str) -> None:
        self.run("dpmpp_2m", sample_dpmpp_2m, prediction, spacing)
