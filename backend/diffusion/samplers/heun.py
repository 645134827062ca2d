"""Second-order Runge-Kutta samplers, two calls a step: Heun's trapezoid and DPM2's midpoint."""

from __future__ import annotations

import math

from torch import Tensor

from backend.diffusion.samplers.spec import Denoiser, OnStep, StepState, intervals


def sample_heun(denoise: Denoiser, x: Tensor, sigmas: Tensor, *, on_step: OnStep) -> Tensor:
    """Karras et al. 2022, arXiv:2206.00364, algorithm 1; the step to 0 is Euler's."""
    for i, sigma, sigma_next in intervals(sigmas):
        denoised = denoise(x, sigmas[i])
        slope = (x - denoised) / sigma
        trial = x + slope * (sigma_next - sigma)
        if sigma_next == 0:
            x = trial
        else:
            denoised = denoise(trial, sigmas[i + 1])
            slope_next = (trial - denoised) / sigma_next
            x = x + (slope + slope_next) / 2 * (sigma_next - sigma)
        on_step(StepState(i, sigma, x, denoised))
    return x


def sample_dpm2(denoise: Denoiser, x: Tensor, sigmas: Tensor, *, on_step: OnStep) -> Tensor:
    """The midpoint rule with the middle in log sigma; the step to 0 is Euler's.

    Source: Karras et al. 2022 with DPM-Solver-2's midpoint (Lu et al. 2022, arXiv:2206.00927), as in k-diffusion's
    ``sample_dpm_2``.
    """
    for i, sigma, sigma_next in intervals(sigmas):
        denoised = denoise(x, sigmas[i])
        slope = (x - denoised) / sigma
        if sigma_next > 0:
            middle = math.sqrt(sigma * sigma_next)
            halfway = x + slope * (middle - sigma)
            denoised = denoise(halfway, sigmas.new_tensor(middle))
            slope = (halfway - denoised) / middle
        x = x + slope * (sigma_next - sigma)
        on_step(StepState(i, sigma, x, denoised))
    return x
