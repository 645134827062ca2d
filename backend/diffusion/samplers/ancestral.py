"""Ancestral samplers: step below the next level, then add noise up to it."""

from __future__ import annotations

import math

from torch import Tensor

from backend.diffusion.noise import NoiseSource
from backend.diffusion.prediction import Prediction
from backend.diffusion.samplers.spec import Denoiser, OnStep, StepState, intervals


def ancestral_step(sigma: float, sigma_next: float, prediction: Prediction) -> tuple[float, float, float]:
    """The level to step down to, then the factors of x and of unit noise that lead up to ``sigma_next``.

    The step down is k-diffusion's, to sigma_next^2 / sigma, where a latent has the share alpha(down). Scaling x to the
    share alpha(sigma_next) scales its noise too; what is missing to sigma_next is added. With alpha = 1 (eps, v) that
    is k-diffusion's ``get_ancestral_step``; on flow it is the marginal of rectified flow at sigma_next, and sigma = 1
    needs no special care: down is below 1.
    """
    sigma_down = sigma_next**2 / sigma
    scale = prediction.alpha(sigma_next) / prediction.alpha(sigma_down)
    sigma_up = math.sqrt(max(sigma_next**2 - (scale * sigma_down) ** 2, 0.0))
    return sigma_down, scale, sigma_up


def sample_euler_ancestral(
    denoise: Denoiser, x: Tensor, sigmas: Tensor, *, prediction: Prediction, noise: NoiseSource, on_step: OnStep
) -> Tensor:
    """Euler steps with noise added back; k-diffusion's ``sample_euler_ancestral`` with eta 1."""
    for i, sigma, sigma_next in intervals(sigmas):
        denoised = denoise(x, sigmas[i])
        sigma_down, scale, sigma_up = ancestral_step(sigma, sigma_next, prediction)
        slope = (x - denoised) / sigma
        x = x + slope * (sigma_down - sigma)
        if sigma_next > 0:
            x = scale * x + sigma_up * noise.step()
        on_step(StepState(i, sigma, x, denoised))
    return x


def sample_dpmpp_2s_ancestral(
    denoise: Denoiser, x: Tensor, sigmas: Tensor, *, prediction: Prediction, noise: NoiseSource, on_step: OnStep
) -> Tensor:
    """DPM-Solver++(2S) steps in -log sigma, the midpoint at half the way, with noise added back.

    Source: Lu et al. 2022, arXiv:2211.01095, algorithm 1 with r = 1/2; ancestral as in k-diffusion. In -log sigma the
    solver is the same for eps, v and flow; only the noise knows alpha.
    """
    for i, sigma, sigma_next in intervals(sigmas):
        denoised = denoise(x, sigmas[i])
        if sigma_next == 0:
            x = denoised
        else:
            sigma_down, scale, sigma_up = ancestral_step(sigma, sigma_next, prediction)
            middle = math.sqrt(sigma * sigma_down)
            halfway = (middle / sigma) * x + (1 - middle / sigma) * denoised
            denoised = denoise(halfway, sigmas.new_tensor(middle))
            x = (sigma_down / sigma) * x + (1 - sigma_down / sigma) * denoised
            x = scale * x + sigma_up * noise.step()
        on_step(StepState(i, sigma, x, denoised))
    return x
