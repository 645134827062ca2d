"""Samplers that add noise and know alpha: DPM2 a and TCD; both lay fresh noise over a latent from a lower level."""

from __future__ import annotations

import math

from torch import Tensor

from backend.api import Denoiser, NoiseSource, OnStep, Parameters, Prediction, StepState, intervals, number


class TcdParameters(Parameters):
    """How much of each step's noise is new."""

    eta: float = number(0.3, low=0.0, high=1.0, label="Eta", help="0: no new noise; 1: all of it, which is LCM.")


def raised(x: Tensor, low: float, high: float, prediction: Prediction, noise: NoiseSource) -> Tensor:
    """A latent at level ``low`` brought up to ``high``: scaled to the share of the clean latent there, noise added."""
    scale = prediction.alpha(high) / prediction.alpha(low)
    return scale * x + math.sqrt(max(high**2 - (scale * low) ** 2, 0.0)) * noise.step()


def sample_dpm2_ancestral(
    denoise: Denoiser, x: Tensor, sigmas: Tensor, *, prediction: Prediction, noise: NoiseSource, on_step: OnStep
) -> Tensor:
    """DPM2's step (the slope half way in log sigma) to below the next level, and noise up to it.

    Source: Karras et al. 2022, arXiv:2206.00364, algorithm 2's solver, ancestral as in k-diffusion's
    ``sample_dpm_2_ancestral``; the level below is sigma_next^2 / sigma, as with Euler a.
    """
    for i, sigma, sigma_next in intervals(sigmas):
        denoised = denoise(x, sigmas[i])
        if sigma_next == 0:
            x = denoised
        else:
            down = sigma_next**2 / sigma
            middle = math.sqrt(sigma * down)
            halfway = x + (middle - sigma) / sigma * (x - denoised)
            denoised = denoise(halfway, sigmas.new_tensor(middle))
            x = x + (down - sigma) / middle * (halfway - denoised)
            x = raised(x, down, sigma_next, prediction, noise)
        on_step(StepState(i, sigma, x, denoised))
    return x


def sample_tcd(
    denoise: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    *,
    prediction: Prediction,
    noise: NoiseSource,
    on_step: OnStep,
    parameters: TcdParameters,
) -> Tensor:
    """A jump to the timestep (1 - eta) times the next one, and noise up from there; for distilled checkpoints.

    Source: Zheng et al. 2024, arXiv:2402.19159 (strategic stochastic sampling).
    """
    for i, sigma, sigma_next in intervals(sigmas):
        denoised = denoise(x, sigmas[i])
        if sigma_next == 0:
            x = denoised
        else:
            down = _below(sigmas[i + 1], parameters.eta, prediction)
            x = denoised + (down / sigma) * (x - denoised)
            if parameters.eta > 0:
                x = raised(x, down, sigma_next, prediction, noise)
        on_step(StepState(i, sigma, x, denoised))
    return x


def _below(sigma: Tensor, eta: float, prediction: Prediction) -> float:
    """The level of the timestep (1 - eta) times that of ``sigma``; where none is counted (EDM), of sigma itself."""
    if eta == 1 or prediction.kind in ("edm", "edm_v"):
        return (1 - eta) * float(sigma)
    return min(float(prediction.sigma(prediction.timestep(sigma) * (1 - eta))), float(sigma))
