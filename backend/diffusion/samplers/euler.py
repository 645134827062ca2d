"""Euler's method on dx/dsigma = (x - denoised) / sigma: one call a step, first order."""

from __future__ import annotations

from torch import Tensor

from backend.diffusion.samplers.spec import Denoiser, OnStep, StepState, intervals


def sample_euler(denoise: Denoiser, x: Tensor, sigmas: Tensor, *, on_step: OnStep) -> Tensor:
    """Karras et al. 2022, arXiv:2206.00364, algorithm 1 without its second order correction."""
    for i, sigma, sigma_next in intervals(sigmas):
        denoised = denoise(x, sigmas[i])
        slope = (x - denoised) / sigma
        x = x + slope * (sigma_next - sigma)
        on_step(StepState(i, sigma, x, denoised))
    return x
