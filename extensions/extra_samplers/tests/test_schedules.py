"""Schedules: ends, falling, and the numbers that their sources give."""

from __future__ import annotations

import math

import pytest
import torch

from backend.diffusion.edm import EdmVPrediction
from backend.diffusion.prediction import EpsPrediction, FlowPrediction, VPrediction
from extensions.extra_samplers.schedules import SCHEDULES

BY_NAME = {spec.name: spec.make for spec in SCHEDULES}
PREDICTIONS = [EpsPrediction(), VPrediction(zero_terminal_snr=True), FlowPrediction(3.0), EdmVPrediction()]


@pytest.mark.parametrize("prediction", PREDICTIONS, ids=lambda p: p.kind)
@pytest.mark.parametrize("name", sorted(BY_NAME))
@pytest.mark.parametrize("steps", [1, 2, 4, 10, 28, 150])
def test_schedule_falls_from_the_models_top_to_0(name, prediction, steps):
    sigmas = BY_NAME[name](prediction, steps)
    assert sigmas.dtype is torch.float32
    assert len(sigmas) == steps + 1
    assert (sigmas.diff() < 0).all()
    assert float(sigmas[0]) == pytest.approx(prediction.sigma_max, rel=1e-6)
    assert float(sigmas[-1]) == 0


def test_ten_aligned_steps_are_the_published_ones():
    sdxl = [14.6146, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.0]
    sd1 = [14.6146, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.0]
    for name, levels in (("align_your_steps", sdxl), ("align_your_steps_sd1", sd1)):
        assert BY_NAME[name](EpsPrediction(), 10).tolist() == pytest.approx(levels, abs=1e-4)


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("name", "table"),
    [("align_your_steps", "StableDiffusionXLSigmas"), ("align_your_steps_sd1", "StableDiffusionSigmas")],
)
def test_ten_aligned_steps_match_diffusers_but_for_the_models_own_top(name, table):
    from diffusers.schedulers import AysSchedules

    assert BY_NAME[name](EpsPrediction(), 10).tolist() == pytest.approx(AysSchedules[table], abs=4e-4)


def test_twenty_aligned_steps_fall_log_linearly_between_the_published_ones():
    sigmas = BY_NAME["align_your_steps"](EpsPrediction(), 20)
    assert float(sigmas[2]) == pytest.approx(6.315)
    assert float(sigmas[3]) == pytest.approx(math.sqrt(6.315 * 3.771))
    assert float(sigmas[19]) == pytest.approx(math.sqrt(0.113 * 0.029))


def test_on_flow_an_aligned_level_has_the_same_ratio_of_noise_to_signal():
    sigmas = BY_NAME["align_your_steps"](FlowPrediction(3.0), 10).double()
    assert float(sigmas[0]) == 1
    assert (sigmas[1:-1] / (1 - sigmas[1:-1])).tolist() == pytest.approx(
        [6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113], rel=1e-5
    )


def test_kl_optimal_is_even_in_the_angle():
    """A1111's formula: tan(i / n * atan(sigma_min) + (1 - i / n) * atan(sigma_max))."""
    low, high = EpsPrediction().sigma_min, EpsPrediction().sigma_max
    expected = [math.tan(i / 4 * math.atan(low) + (1 - i / 4) * math.atan(high)) for i in range(5)]
    assert BY_NAME["kl_optimal"](EpsPrediction(), 5).tolist()[:-1] == pytest.approx(expected)
    flow = BY_NAME["kl_optimal"](FlowPrediction(1.0), 3).double()
    middle = math.tan((math.pi / 2 + math.atan(0.001 / 0.999)) / 2)
    assert float(flow[1]) == pytest.approx(middle / (1 + middle))


def test_polyexponential_is_a_power_in_log_sigma():
    sigmas = BY_NAME["polyexponential"](EpsPrediction(), 5).double()
    low, high = math.log(EpsPrediction().sigma_min), math.log(EpsPrediction().sigma_max)
    share = (math.log(float(sigmas[2])) - low) / (high - low)
    assert share == pytest.approx(0.5**0.7, rel=1e-5)
