"""SA-Solver: stochastic Adams, a predictor and a corrector with one call a step and as much new noise as is wished.

Source: Xue et al. 2023, arXiv:2309.05019, algorithm 1 (data prediction, predictor and corrector), tau constant within
each step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from backend.api import (
    Denoiser,
    NoiseSource,
    OnStep,
    Parameters,
    Prediction,
    StepState,
    intervals,
    number,
    whole,
)
from extensions.extra_samplers.interpolation import polynomial_weights

PURE_NOISE = 1e-6  # an alpha below counts as 0: flow at sigma = 1, where lambda is -infinity


class SaParameters(Parameters):
    """How stochastic, and of which order."""

    tau: float = number(1.0, low=0.0, high=2.0, label="Tau", help="0: no noise is added; 1: the diffusion's own.")
    start: float = number(0.2, low=0.0, high=1.0, label="Noise from", help="Share of the steps.")
    end: float = number(0.8, low=0.0, high=1.0, label="Noise to", help="Share of the steps.")
    predictor: int = whole(2, low=1, high=4, label="Predictor order", help="2 or 3 with guidance.")
    corrector: int = whole(2, low=0, high=4, label="Corrector order", help="0: no corrector.")


def sample_sa_solver(
    denoise: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    *,
    prediction: Prediction,
    noise: NoiseSource,
    on_step: OnStep,
    parameters: SaParameters,
) -> Tensor:
    """Predict with past values, call, correct with the new one and the same noise; fewer values in the last steps.

    A step that starts at pure noise (flow, sigma = 1) follows the noise-free equation, as the core's SDE samplers do.
    """
    history: list[tuple[Tensor, float]] = []  # (denoised, lambda), newest first
    steps = len(sigmas) - 1
    before = fresh = None  # the latent and the noise that the coming step's correction starts from
    tau = 0.0
    for i, sigma, sigma_next in intervals(sigmas):
        denoised = denoise(x, sigmas[i])
        if prediction.alpha(sigma) < PURE_NOISE:
            x = denoised + (sigma_next / sigma) * (x - denoised)
            on_step(StepState(i, sigma, x, denoised))
            continue
        lam = prediction.half_log_snr(sigma)
        if before is not None and parameters.corrector:
            known = [(denoised, lam), *history[: parameters.corrector - 1]]
            x = _moved(before, history[0][1], lam, known, tau, prediction, fresh)
        history = [(denoised, lam), *history[: max(parameters.predictor, parameters.corrector) - 1]]
        before, fresh = x, None
        if sigma_next == 0:
            x = denoised
        else:
            tau = parameters.tau if parameters.start <= i / steps < parameters.end else 0.0
            fresh = noise.step() if tau > 0 else None
            order = min(parameters.predictor, steps - i) if sigmas[-1] == 0 else parameters.predictor
            x = _moved(x, lam, prediction.half_log_snr(sigma_next), history[:order], tau, prediction, fresh)
        on_step(StepState(i, sigma, x, denoised))
    return x


def _moved(
    x: Tensor,
    start: float,
    end: float,
    known: Sequence[tuple[Tensor, float]],
    tau: float,
    prediction: Prediction,
    fresh: Tensor | None,
) -> Tensor:
    """From lambda ``start`` to ``end`` along the polynomial through the known values (denoised, lambda).

    x(end) = sigma_end / sigma exp(-tau^2 h) x + sigma_end * the integral of (1 + tau^2) exp((1 + tau^2) (lambda - end))
    exp(end) times the polynomial. Of a line's slope the integral is h^2 / 2, its limit for small h, as the authors'
    code and diffusers have it for few steps.
    """
    factor = 1 + tau**2
    sigma, sigma_next = prediction.sigma_at(start), prediction.sigma_at(end)
    weights = polynomial_weights(
        [lam for _, lam in known],
        start,
        end,
        kernel=lambda lam: factor * math.exp(factor * (lam - end)) * math.exp(end),
    )
    if len(known) == 2:
        h, (near, far) = end - start, (lam for _, lam in known)
        slope = factor * h - 1 + math.exp(-factor * h)  # the exact integral, times factor^2
        change = factor * math.exp(end) * (h**2 / 2 - slope / factor**2) / (near - far)
        weights = [weights[0] + change, weights[1] - change]
    result = (sigma_next / sigma) * math.exp(-(tau**2) * (end - start)) * x
    for (denoised, _), weight in zip(known, weights, strict=True):
        result = result + (sigma_next * weight) * denoised
    if fresh is not None:
        result = result + sigma_next * math.sqrt(-math.expm1(-2 * tau**2 * (end - start))) * fresh
    return result
