"""The linear multistep method (Adams-Bashforth on uneven steps): one call a step, slopes of up to four steps."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from backend.diffusion.samplers.spec import Denoiser, OnStep, StepState, intervals

ORDER = 4


def sample_lms(denoise: Denoiser, x: Tensor, sigmas: Tensor, *, on_step: OnStep) -> Tensor:
    """Integrate the polynomial in sigma through the last four slopes (k-diffusion's ``sample_lms``)."""
    history: list[tuple[Tensor, float]] = []  # (slope, sigma), newest first
    for i, sigma, sigma_next in intervals(sigmas):
        denoised = denoise(x, sigmas[i])
        history = [((x - denoised) / sigma, sigma), *history[: ORDER - 1]]
        weights = lms_weights([level for _, level in history], sigma_next)
        for (slope, _), weight in zip(history, weights, strict=True):
            x = x + weight * slope
        on_step(StepState(i, sigma, x, denoised))
    return x


def lms_weights(levels: Sequence[float], end: float) -> list[float]:
    """The integrals from ``levels[0]`` to ``end`` of the Lagrange polynomials through ``levels`` (at most four).

    By Gauss's rule with two points, which is exact up to cubics.
    """
    centre, half = (levels[0] + end) / 2, (end - levels[0]) / 2
    points = (centre - half / math.sqrt(3), centre + half / math.sqrt(3))
    return [
        half * sum(math.prod((p - other) / (level - other) for other in levels if other != level) for p in points)
        for level in levels
    ]
