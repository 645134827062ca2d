"""Prediction kinds: round trips, the trained tables, and diffusers' table."""

from __future__ import annotations

import diffusers
import numpy as np
import pytest
import torch

from backend.diffusion.edm import EdmPrediction, EdmVPrediction
from backend.diffusion.prediction import EpsPrediction, FlowPrediction, Prediction, VPrediction

ALL = pytest.mark.parametrize(
    "prediction",
    [EpsPrediction(), VPrediction(), VPrediction(zero_terminal_snr=True), FlowPrediction(3.0), EdmPrediction(),
     EdmVPrediction()],
    ids=["eps", "v", "v zero snr", "flow", "edm", "edm v"],
)  # fmt: skip


def pair() -> tuple[torch.Tensor, torch.Tensor]:
    return tuple(torch.randn(2, 3, 4, 5, 5, generator=torch.Generator().manual_seed(0)).unbind(0))  # type: ignore[return-value]


@ALL
@pytest.mark.parametrize("sigma", [torch.tensor(0.5), torch.tensor([0.1, 0.5, 0.9])])
def test_the_training_target_means_the_latent(prediction: Prediction, sigma: torch.Tensor) -> None:
    latent, noise = pair()
    x = prediction.add_noise(latent, noise, sigma)
    output = prediction.target(latent, noise, sigma)
    torch.testing.assert_close(prediction.denoised(output, x, sigma), latent, atol=1e-5, rtol=1e-5)


@ALL
def test_timestep_and_sigma_are_inverse(prediction: Prediction) -> None:
    timesteps = torch.tensor([3.5, 250.0, 501.25, 998.0])
    if prediction.kind.startswith("edm"):
        timesteps = timesteps / 1000  # a quarter of log sigma
    torch.testing.assert_close(prediction.timestep(prediction.sigma(timesteps)), timesteps, atol=2e-3, rtol=0)


def test_published_ends_of_the_tables() -> None:
    eps, flow = EpsPrediction(), FlowPrediction(3.0)
    assert eps.sigma_min == pytest.approx(0.029167, abs=1e-6)
    assert eps.sigma_max == pytest.approx(14.614641, abs=1e-6)
    assert VPrediction(zero_terminal_snr=True).sigma_max == pytest.approx(4518.76, abs=0.01)
    assert flow.sigma_min == pytest.approx(0.002994, abs=1e-6)
    assert flow.sigma_max == 1.0


def test_table_points_have_whole_timesteps() -> None:
    eps = EpsPrediction()
    torch.testing.assert_close(eps.timestep(eps.sigmas.float()), torch.arange(1000.0), atol=2e-3, rtol=0)


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")
def test_table_and_fractional_timesteps_match_diffusers() -> None:
    scheduler = diffusers.EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    eps = EpsPrediction()
    torch.testing.assert_close(scheduler.sigmas[:-1].flip(0), eps.sigmas.float(), rtol=1e-4, atol=0)
    log_sigmas = eps.sigmas.log().numpy()
    for sigma in (0.03, 0.7, 4.2, 14.0):
        theirs = float(scheduler._sigma_to_t(np.float64(sigma), log_sigmas))
        assert float(eps.timestep(torch.tensor(sigma, dtype=torch.float64))) == pytest.approx(theirs, abs=1e-3)


@pytest.mark.oracle
def test_zero_terminal_snr_matches_diffusers_but_for_the_last_level() -> None:
    from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr

    betas = rescale_zero_terminal_snr(torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2)
    alpha_bar = (1 - betas).cumprod(0)[:-1]
    theirs = ((1 - alpha_bar) / alpha_bar).sqrt()
    torch.testing.assert_close(VPrediction(zero_terminal_snr=True).sigmas[:-1], theirs, rtol=1e-9, atol=0)


@ALL
def test_half_log_snr_and_its_inverse(prediction: Prediction) -> None:
    for sigma in (0.003, 0.4, 0.97):
        value = prediction.half_log_snr(sigma)
        assert value == pytest.approx(torch.tensor(prediction.alpha(sigma) / sigma).log().item(), abs=1e-5)
        assert prediction.sigma_at(value) == pytest.approx(sigma, rel=1e-12)


def test_start_of_sampling() -> None:
    noise, sigma = torch.ones(1, 4, 2, 2), torch.tensor(3.0)
    assert float(EpsPrediction().start(noise, sigma)[0, 0, 0, 0]) == 3.0
    zero_snr = VPrediction(zero_terminal_snr=True).start(noise, sigma)
    assert float(zero_snr[0, 0, 0, 0]) == pytest.approx(10**0.5)
    assert torch.equal(FlowPrediction().start(noise, torch.tensor(1.0)), noise)


def test_flow_mixes_latent_and_noise() -> None:
    latent, noise = pair()
    x = FlowPrediction().add_noise(latent, noise, torch.tensor(0.25))
    torch.testing.assert_close(x, 0.75 * latent + 0.25 * noise)


def test_shapes_that_differ_and_shifts_below_zero_are_refused() -> None:
    with pytest.raises(ValueError, match="differ in shape"):
        EpsPrediction().add_noise(torch.zeros(1, 4, 8, 8), torch.zeros(1, 4, 8, 9), torch.tensor(1.0))
    with pytest.raises(ValueError, match="above 0"):
        FlowPrediction(shift=0.0)


def test_fact_10_the_last_level_of_zero_terminal_snr_is_4518_not_4096() -> None:
    """ComfyUI's and A1111's last alpha_bar, 4.897e-8; diffusers writes 2^-24, sigma 4096."""
    prediction = VPrediction(zero_terminal_snr=True)
    assert prediction.sigma_max == pytest.approx(4518.76, abs=0.01)
    ordinary = VPrediction()
    assert float(prediction.sigmas[0]) == pytest.approx(float(ordinary.sigmas[0]), rel=1e-6)  # only stretched
    assert float(prediction.start(torch.ones(()), torch.tensor(4518.76))) == pytest.approx(4518.76, rel=1e-6)


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")
def test_the_zero_terminal_snr_table_is_diffusers_below_its_last_level() -> None:
    scheduler = diffusers.EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", rescale_betas_zero_snr=True
    )
    table = VPrediction(zero_terminal_snr=True).sigmas.float()
    torch.testing.assert_close(scheduler.sigmas[:-1].flip(0)[:-1], table[:-1], rtol=2e-3, atol=0)
    assert float(scheduler.sigmas[0]) == pytest.approx(4096, rel=1e-3)
