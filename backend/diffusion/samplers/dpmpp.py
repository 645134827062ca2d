"""DPM-Solver++(2M): second order with one call a step, in -log sigma."""

from __future__ import annotations

import math

from torch import Tensor

from backend.diffusion.samplers.spec import Denoiser, OnStep, StepState, intervals


def sample_dpmpp_2m(denoise: Denoiser, x: Tensor, sigmas: Tensor, *, on_step: OnStep) -> Tensor:
    """The exact solution for a ``denoised`` that is linear in -log sigma, through this step's value and the last one's.

    First order in the first step and in the step to 0. In -log sigma the equation is the same for eps, v and flow.
    Source: Lu et al. 2022, arXiv:2211.01095, algorithm 2.
    """
    previous: Tensor | None = None
    h_last = 0.0
    for i, sigma, sigma_next in intervals(sigmas):
        denoised = denoise(x, sigmas[i])
        if sigma_next == 0:
            x = denoised
        else:
            h = math.log(sigma / sigma_next)
            estimate = denoised
            if previous is not None:
                estimate = denoised + (denoised - previous) * (h / (2 * h_last))
            x = (sigma_next / sigma) * x - math.expm1(-h) * estimate
            previous, h_last = denoised, h
        on_step(StepState(i, sigma, x, denoised))
    return x
