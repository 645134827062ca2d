"""ER-SDE-Solver-3: a reverse equation whose noise is small where it would do harm, solved to third order.

Source: Cui et al. 2023, arXiv:2309.06169, ER-SDE-Solver-3 with the noise scale function phi(r) = r (exp(r^0.3) + 10).
"""

from __future__ import annotations

import math

from torch import Tensor

from backend.api import Denoiser, NoiseSource, OnStep, Prediction, StepState, intervals
from extensions.extra_samplers.interpolation import integral

PURE_NOISE = 1e-6  # an alpha below counts as 0: flow at sigma = 1, where the ratio is infinite


def noise_scale(ratio: float) -> float:
    """phi; ``ratio`` is sigma / alpha."""
    return ratio * (math.exp(ratio**0.3) + 10)


def sample_er_sde(
    denoise: Denoiser, x: Tensor, sigmas: Tensor, *, prediction: Prediction, noise: NoiseSource, on_step: OnStep
) -> Tensor:
    """One call a step; Taylor's terms from the last two values of ``denoised``, in r = sigma / alpha.

    A step that starts at pure noise (flow, sigma = 1) follows the noise-free equation, as the core's SDE samplers do.
    """
    history: list[tuple[Tensor, float]] = []  # (denoised, ratio), newest first
    quotient: Tensor | None = None  # of the last two values
    for i, sigma, sigma_next in intervals(sigmas):
        denoised = denoise(x, sigmas[i])
        if sigma_next == 0:
            x = denoised
        elif prediction.alpha(sigma) < PURE_NOISE:
            x = denoised + (sigma_next / sigma) * (x - denoised)
        else:
            alpha = prediction.alpha(sigma_next)
            start, end = sigma / prediction.alpha(sigma), sigma_next / alpha
            kept = noise_scale(end) / noise_scale(start)
            x = (alpha * kept / prediction.alpha(sigma)) * x + (alpha * (1 - kept)) * denoised
            last = quotient
            if history:
                once = integral(lambda r: 1 / noise_scale(r), end, start)
                quotient = (denoised - history[0][0]) / (start - history[0][1])
                x = x + (alpha * (end - start + once * noise_scale(end))) * quotient
                if last is not None:
                    twice = integral(lambda r, s=start: (r - s) / noise_scale(r), end, start)
                    bend = (quotient - last) / ((start - history[1][1]) / 2)
                    x = x + (alpha * ((end - start) ** 2 / 2 + twice * noise_scale(end))) * bend
            x = x + (alpha * math.sqrt(max(end**2 - (start * kept) ** 2, 0.0))) * noise.step()
            history = [(denoised, start), *history[:1]]
        on_step(StepState(i, sigma, x, denoised))
    return x
