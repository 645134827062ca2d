"""Heun++: slopes at this level and the next ones, weighted by their levels."""

from __future__ import annotations

from torch import Tensor

from backend.api import Denoiser, OnStep, StepState, intervals


def sample_heunpp2(denoise: Denoiser, x: Tensor, sigmas: Tensor, *, on_step: OnStep) -> Tensor:
    """Three slopes a step, two in the last but one, one in the last.

    A slope at level s counts s / (n * sigmas[0]) of n slopes, and the step's own takes what is left to 1: so the later
    slopes fade as the noise does, and the method is of first order in the end.
    Source: Carzit/sd-webui-samplers-scheduler, Heun++ (its README; no paper).
    """
    levels = [float(sigma) for sigma in sigmas]
    for i, sigma, sigma_next in intervals(sigmas):
        denoised = denoise(x, sigmas[i])
        slope = (x - denoised) / sigma
        along, trial = slope, x + (sigma_next - sigma) * slope
        further = [level for level in levels[i + 1 : i + 3] if level > 0]
        share = (1 + len(further)) * levels[0]
        for k, level in enumerate(further, start=1):
            denoised = denoise(trial, sigmas[i + k])
            later = (trial - denoised) / level
            along = along + (level / share) * (later - slope)
            if k < len(further):
                trial = trial + (levels[i + k + 1] - level) * later
        x = x + (sigma_next - sigma) * along
        on_step(StepState(i, sigma, x, denoised))
    return x
