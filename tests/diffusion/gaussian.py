"""The one case whose answers are known: data ~ N(mean, spread^2), for which the perfect denoiser is a formula."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from backend.diffusion.noise import NoiseSource
from backend.diffusion.prediction import EpsPrediction, FlowPrediction, Prediction
from backend.diffusion.samplers import SAMPLERS, StepState

DISCRETE, FLOW = EpsPrediction(), FlowPrediction(shift=1.0)


@dataclass(frozen=True)
class Gaussian:
    """x = alpha * latent + sigma * noise; sampling along sigma, calls counted by the caller's own wrapper."""

    prediction: Prediction
    mean: float = 0.3
    spread: float = 0.6

    def variance(self, sigma: float) -> float:
        return (self.prediction.alpha(sigma) * self.spread) ** 2 + sigma**2

    def denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        level = float(sigma)
        alpha = self.prediction.alpha(level)
        return self.mean + (x - alpha * self.mean) * (alpha * self.spread**2 / self.variance(level))

    def flowed(self, x: Tensor, start: float, end: float) -> Tensor:
        """Where the noise-free equation takes ``x`` from one level to another."""
        alpha, alpha_end = self.prediction.alpha(start), self.prediction.alpha(end)
        stretch = math.sqrt(self.variance(end) / self.variance(start))
        return alpha_end * self.mean + (x - alpha * self.mean) * stretch


def ignore(state: StepState) -> None:
    """An ``on_step`` that does nothing."""


def run(name: str, gaussian: Gaussian, x: Tensor, sigmas: Tensor, noise: NoiseSource | None = None) -> Tensor:
    source = noise or NoiseSource([0], (1, 1, 1))
    return SAMPLERS[name].run(gaussian.denoise, x, sigmas, prediction=gaussian.prediction, noise=source, on_step=ignore)


def warped(high: float, low: float, steps: int) -> Tensor:
    """Karras spacing from ``high`` to ``low`` in float64, without the 0 at the end."""
    return torch.linspace(high ** (1 / 7), low ** (1 / 7), steps + 1, dtype=torch.float64) ** 7
