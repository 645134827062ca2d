"""Restart: Heun's steps, with jumps back up in the noise that wash out what errors have gathered."""

from __future__ import annotations

import math

from torch import Tensor

from backend.api import Denoiser, NoiseSource, OnStep, Parameters, Prediction, StepState, intervals, number, whole


class RestartParameters(Parameters):
    """Where and how often the sampler jumps back."""

    restarts: int = whole(1, low=0, high=10, label="Restarts", help="How often each stretch is run again.")
    top: float = number(2.0, low=0.05, high=50.0, step=0.05, label="Restart from sigma", help="Flow: at most 0.95.")
    bottom: float = number(0.1, low=0.01, high=10.0, label="Restart at sigma", help="Where the jump begins.")


def sample_restart(
    denoise: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    *,
    prediction: Prediction,
    noise: NoiseSource,
    on_step: OnStep,
    parameters: RestartParameters,
) -> Tensor:
    """Heun steps; when the level ``bottom`` is reached, noise leads back to ``top`` and the way down is run again.

    Source: Xu et al. 2023, arXiv:2306.14878, algorithm 2 with one restart interval; its steps are the schedule's own
    between the two levels. A jump on flow scales the latent too, to its share at the higher level.
    """
    levels = [float(sigma) for sigma in sigmas]
    high, low = _interval(levels, parameters)
    for i, sigma, _ in intervals(sigmas):
        x, denoised = _heun(denoise, x, sigmas, i)
        if i + 1 == low:
            for _ in range(parameters.restarts):
                x = _jump(x, levels[low], levels[high], prediction, noise)
                for j in range(high, low):
                    x, denoised = _heun(denoise, x, sigmas, j)
        on_step(StepState(i, sigma, x, denoised))
    return x


def _interval(levels: list[float], parameters: RestartParameters) -> tuple[int, int]:
    """Places in the schedule of the highest level up to ``top`` and of the first below ``bottom``; (0, 0): none.

    A jump ends below the very top, where nothing of the latent is left on flow.
    """
    top = min(parameters.top, 0.95 * levels[0])
    high = next((i for i, level in enumerate(levels) if 0 < level <= top), 0)
    low = next((i for i, level in enumerate(levels) if i > high and 0 < level <= parameters.bottom), 0)
    return (high, low) if high and low else (0, 0)


def _heun(denoise: Denoiser, x: Tensor, sigmas: Tensor, i: int) -> tuple[Tensor, Tensor]:
    sigma, sigma_next = float(sigmas[i]), float(sigmas[i + 1])
    denoised = denoise(x, sigmas[i])
    slope = (x - denoised) / sigma
    trial = x + slope * (sigma_next - sigma)
    if sigma_next == 0:
        return trial, denoised
    denoised = denoise(trial, sigmas[i + 1])
    return x + (slope + (trial - denoised) / sigma_next) / 2 * (sigma_next - sigma), denoised


def _jump(x: Tensor, low: float, high: float, prediction: Prediction, noise: NoiseSource) -> Tensor:
    """From one noise level up to another: the latent's share and the noise's deviation become the higher's."""
    scale = prediction.alpha(high) / prediction.alpha(low)
    return scale * x + math.sqrt(high**2 - (scale * low) ** 2) * noise.step()
