"""Samplers with one call a step that remember past steps: DEIS, IPNDM, RES multistep and gradient estimation.

None of them knows alpha: with dx/dsigma = (x - denoised) / sigma they are the same for eps, v and flow.
"""

from __future__ import annotations

import math

from torch import Tensor

from backend.api import Denoiser, OnStep, StepState, intervals
from extensions.extra_samplers.interpolation import polynomial_weights

# Adams and Bashforth's coefficients for even steps, newest first, by the number of slopes that are known.
_ADAMS_BASHFORTH = {
    1: (1.0,),
    2: (3 / 2, -1 / 2),
    3: (23 / 12, -16 / 12, 5 / 12),
    4: (55 / 24, -59 / 24, 37 / 24, -9 / 24),
}
DEIS_ORDER = 3
ESTIMATION_WEIGHT = 2.0  # the paper's gamma


def sample_deis(denoise: Denoiser, x: Tensor, sigmas: Tensor, *, on_step: OnStep) -> Tensor:
    """The exact integral of the polynomial in log sigma through up to three slopes, over sigma; Euler to 0.

    Source: Zhang and Chen 2023, arXiv:2204.13902, section 3 (tAB-DEIS), the polynomial in log rho as in diffusers.
    """
    history: list[tuple[Tensor, float]] = []  # (slope, log sigma), newest first
    for i, sigma, sigma_next in intervals(sigmas):
        denoised = denoise(x, sigmas[i])
        history = [((x - denoised) / sigma, math.log(sigma)), *history[: DEIS_ORDER - 1]]
        if sigma_next == 0:
            x = denoised
        else:
            weights = polynomial_weights(
                [level for _, level in history], math.log(sigma), math.log(sigma_next), kernel=math.exp
            )
            for (slope, _), weight in zip(history, weights, strict=True):
                x = x + weight * slope
        on_step(StepState(i, sigma, x, denoised))
    return x


def sample_ipndm(denoise: Denoiser, x: Tensor, sigmas: Tensor, *, on_step: OnStep) -> Tensor:
    """Euler's step along a mean of up to four slopes, weighted as if all steps were alike.

    Source: Liu et al. 2022, arXiv:2202.09778 (pseudo linear multistep), without its Runge-Kutta start: Zhang and Chen
    2023, arXiv:2204.13902 (iPNDM). (LMS weighs by the steps' true widths.)
    """
    slopes: list[Tensor] = []  # newest first
    for i, sigma, sigma_next in intervals(sigmas):
        denoised = denoise(x, sigmas[i])
        slopes = [(x - denoised) / sigma, *slopes[:3]]
        for slope, weight in zip(slopes, _ADAMS_BASHFORTH[len(slopes)], strict=True):
            x = x + (weight * (sigma_next - sigma)) * slope
        on_step(StepState(i, sigma, x, denoised))
    return x


def sample_res_multistep(denoise: Denoiser, x: Tensor, sigmas: Tensor, *, on_step: OnStep) -> Tensor:
    """The exact solution in -log sigma for a ``denoised`` that is linear there, through the last two values.

    Its weights are phi_1(-h) - phi_2(-h) / c and phi_2(-h) / c; DPM++ 2M has h / 2 in place of the second's integral.
    Source: Zhang et al. 2023, arXiv:2308.02157 (RES, multistep), phi functions of exponential integrators.
    """
    previous: Tensor | None = None
    h_last = 0.0
    for i, sigma, sigma_next in intervals(sigmas):
        denoised = denoise(x, sigmas[i])
        if sigma_next == 0:
            x = denoised
        else:
            h = math.log(sigma / sigma_next)
            phi_1 = -math.expm1(-h) / h
            phi_2 = (1 - phi_1) / h
            x = (sigma_next / sigma) * x + (h * phi_1) * denoised
            if previous is not None:
                x = x + (h * phi_2) * (h / h_last) * (denoised - previous)
            previous, h_last = denoised, h
        on_step(StepState(i, sigma, x, denoised))
    return x


def sample_gradient_estimation(denoise: Denoiser, x: Tensor, sigmas: Tensor, *, on_step: OnStep) -> Tensor:
    """Euler's step along gamma * slope + (1 - gamma) * the last slope, gamma = 2: errors of the two cancel out.

    Source: Permenter and Yuan 2024, arXiv:2306.04848 (second-order sampler by gradient estimation).
    """
    last: Tensor | None = None
    for i, sigma, sigma_next in intervals(sigmas):
        denoised = denoise(x, sigmas[i])
        slope = (x - denoised) / sigma
        along = slope if last is None else ESTIMATION_WEIGHT * slope + (1 - ESTIMATION_WEIGHT) * last
        x = denoised if sigma_next == 0 else x + (sigma_next - sigma) * along
        last = slope
        on_step(StepState(i, sigma, x, denoised))
    return x
