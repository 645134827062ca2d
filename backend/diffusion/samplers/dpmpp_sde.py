"""DPM-Solver++ on the reverse diffusion equation (eta = 1): SDE, 2M SDE and 3M SDE, in half log-SNR.

The half log-SNR log(alpha / sigma) is -log sigma for eps and v and log((1 - sigma) / sigma) for flow. There it is
-infinity at sigma = 1, where the equation would replace all of x by fresh noise. The step that starts there follows
the noise-free equation dx/dsigma = (x - denoised) / sigma instead: it has no such pole, lands on the same marginal, and
keeps the initial noise (so that a variation seed matters). The multistep samplers then begin anew at first order.

The noise is a Brownian path's (``NoiseSource.interval``).
"""

from __future__ import annotations

import math

from torch import Tensor

from backend.diffusion.noise import NoiseSource
from backend.diffusion.prediction import Prediction
from backend.diffusion.samplers.spec import Denoiser, OnStep, StepState, intervals

PURE_NOISE = 1e-6  # an alpha below counts as 0: sigma = 1, give or take float32's rounding


def sample_dpmpp_sde(
    denoise: Denoiser, x: Tensor, sigmas: Tensor, *, prediction: Prediction, noise: NoiseSource, on_step: OnStep
) -> Tensor:
    """Two calls a step, the second halfway in half log-SNR; one call in the step to 0.

    Source: k-diffusion's ``sample_dpmpp_sde`` with r = 1/2: DPM-Solver++(2S) (arXiv:2211.01095, algorithm 1) whose two
    stages are both steps of SDE-DPM-Solver++ (section 5, eq. 18).
    """
    for i, sigma, sigma_next in intervals(sigmas):
        denoised = denoise(x, sigmas[i])
        if sigma_next == 0:
            x = denoised
        elif prediction.alpha(sigma) < PURE_NOISE:
            middle = math.sqrt(sigma * sigma_next)
            halfway = (middle / sigma) * x + (1 - middle / sigma) * denoised
            denoised = denoise(halfway, sigmas.new_tensor(middle))
            x = (sigma_next / sigma) * x + (1 - sigma_next / sigma) * denoised
        else:
            start, end = prediction.half_log_snr(sigma), prediction.half_log_snr(sigma_next)
            centre = (start + end) / 2
            middle = prediction.sigma_at(centre)
            halfway = _mean(x, denoised, sigma, middle, prediction)
            halfway = halfway + _spread(sigma, middle, prediction) * noise.interval(start, centre)
            denoised = denoise(halfway, sigmas.new_tensor(middle))
            x = _mean(x, denoised, sigma, sigma_next, prediction)
            x = x + _spread(sigma, sigma_next, prediction) * noise.interval(start, end)
        on_step(StepState(i, sigma, x, denoised))
    return x


def sample_dpmpp_2m_sde(
    denoise: Denoiser, x: Tensor, sigmas: Tensor, *, prediction: Prediction, noise: NoiseSource, on_step: OnStep
) -> Tensor:
    """SDE-DPM-Solver++(2M), its midpoint variant (arXiv:2211.01095, section 5, eq. 19), as in k-diffusion."""
    previous: Tensor | None = None
    h_last = 0.0
    for i, sigma, sigma_next in intervals(sigmas):
        denoised = denoise(x, sigmas[i])
        if sigma_next == 0:
            x = denoised
        elif prediction.alpha(sigma) < PURE_NOISE:
            x = (sigma_next / sigma) * x + (1 - sigma_next / sigma) * denoised
        else:
            h = prediction.half_log_snr(sigma_next) - prediction.half_log_snr(sigma)
            estimate = denoised
            if previous is not None:
                estimate = denoised + (denoised - previous) * (h / (2 * h_last))
            x = _mean(x, estimate, sigma, sigma_next, prediction)
            x = x + _spread(sigma, sigma_next, prediction) * _noise(noise, sigma, sigma_next, prediction)
            previous, h_last = denoised, h
        on_step(StepState(i, sigma, x, denoised))
    return x


def sample_dpmpp_3m_sde(
    denoise: Denoiser, x: Tensor, sigmas: Tensor, *, prediction: Prediction, noise: NoiseSource, on_step: OnStep
) -> Tensor:
    """The same with a parabola through the last three values of ``denoised`` (k-diffusion's ``sample_dpmpp_3m_sde``).

    The exponential integrals of the parabola's terms are phi_2 and phi_3 of 2 h (exponential integrators, Hochbruck
    and Ostermann 2010). The second step is of second order.
    """
    history: list[tuple[Tensor, float]] = []  # (denoised, width of the step it began), newest first
    for i, sigma, sigma_next in intervals(sigmas):
        denoised = denoise(x, sigmas[i])
        if sigma_next == 0:
            x = denoised
        elif prediction.alpha(sigma) < PURE_NOISE:
            x = (sigma_next / sigma) * x + (1 - sigma_next / sigma) * denoised
        else:
            h = prediction.half_log_snr(sigma_next) - prediction.half_log_snr(sigma)
            alpha = prediction.alpha(sigma_next)
            phi_2 = math.expm1(-2 * h) / (2 * h) + 1
            phi_3 = phi_2 / (2 * h) - 0.5
            x = _mean(x, denoised, sigma, sigma_next, prediction)
            if len(history) == 1:
                ((last, h_last),) = history
                x = x + (alpha * phi_2 * h / h_last) * (denoised - last)
            elif len(history) == 2:
                (last, h_last), (oldest, h_oldest) = history
                newer = (denoised - last) * (h / h_last)  # difference quotients, a step h wide
                older = (last - oldest) * (h / h_oldest)
                bend = (newer - older) * (h / (h_last + h_oldest))
                x = x + (alpha * phi_2) * (newer + bend * (h_last / h)) - (alpha * phi_3) * bend
            x = x + _spread(sigma, sigma_next, prediction) * _noise(noise, sigma, sigma_next, prediction)
            history = [(denoised, h), *history[:1]]
        on_step(StepState(i, sigma, x, denoised))
    return x


def _mean(x: Tensor, denoised: Tensor, sigma: float, sigma_next: float, prediction: Prediction) -> Tensor:
    """Where a step ends but for its noise, if ``denoised`` does not change (arXiv:2211.01095, eq. 18)."""
    h = prediction.half_log_snr(sigma_next) - prediction.half_log_snr(sigma)
    kept = sigma_next / sigma * math.exp(-h)
    return kept * x - (prediction.alpha(sigma_next) * math.expm1(-2 * h)) * denoised


def _spread(sigma: float, sigma_next: float, prediction: Prediction) -> float:
    """The standard deviation of the noise that a step adds."""
    h = prediction.half_log_snr(sigma_next) - prediction.half_log_snr(sigma)
    return sigma_next * math.sqrt(-math.expm1(-2 * h))


def _noise(noise: NoiseSource, sigma: float, sigma_next: float, prediction: Prediction) -> Tensor:
    return noise.interval(prediction.half_log_snr(sigma), prediction.half_log_snr(sigma_next))
