"""DDPM: the exact posterior of the forward process, step by step."""

from __future__ import annotations

import math

from torch import Tensor

from backend.diffusion.noise import NoiseSource
from backend.diffusion.prediction import Prediction
from backend.diffusion.samplers.spec import Denoiser, OnStep, StepState, intervals


def sample_ddpm(
    denoise: Denoiser, x: Tensor, sigmas: Tensor, *, prediction: Prediction, noise: NoiseSource, on_step: OnStep
) -> Tensor:
    """Draw the next level from the posterior of the forward process, given ``x`` and ``denoised``.

    Source: Ho et al. 2020, arXiv:2006.11239, equations 6 and 7, between any two levels. On flow at sigma = 1 the
    formula holds as it stands: alpha = 0, so ``x`` acts through ``denoised`` alone.
    """
    for i, sigma, sigma_next in intervals(sigmas):
        denoised = denoise(x, sigmas[i])
        alpha, alpha_next = prediction.alpha(sigma), prediction.alpha(sigma_next)
        root = (sigma_next * alpha) / (alpha_next * sigma)  # the root of SNR / SNR_next
        x = (root * sigma_next / sigma) * x + (alpha_next * (1 - root**2)) * denoised
        if sigma_next > 0:
            x = x + (sigma_next * math.sqrt(1 - root**2)) * noise.step()
        on_step(StepState(i, sigma, x, denoised))
    return x
