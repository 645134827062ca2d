"""UniPC: a multistep predictor whose result the next step's model call corrects; third order with one call a step."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from backend.diffusion.samplers.spec import Denoiser, OnStep, StepState, intervals

ORDER = 3


def sample_unipc(denoise: Denoiser, x: Tensor, sigmas: Tensor, *, on_step: OnStep) -> Tensor:
    """UniPC-3 on ``denoised`` in -log sigma with B(h) = h ("bh1"), as A1111 runs it; the same for eps, v and flow.

    The order rises from 1 in the first steps; where the schedule ends at 0 it falls again to 1 in the last ones.
    Source: Zhao et al. 2023, arXiv:2302.04867, algorithms 5 to 8 (data prediction).
    """
    steps = list(intervals(sigmas))
    history: list[tuple[Tensor, float]] = []  # (denoised, sigma), newest first
    before = x  # the corrected x at the start of the previous step
    order = 0  # of the previous step's predictor
    for i, sigma, sigma_next in steps:
        denoised = denoise(x, sigmas[i])
        if i > 0:
            x = _advanced(before, sigma, history[:order], corrector=denoised)
        history = [(denoised, sigma), *history[: ORDER - 1]]
        order = min(ORDER, len(history))
        if steps[-1][2] == 0:
            order = min(order, len(steps) - i)
        before = x
        x = denoised if sigma_next == 0 else _advanced(x, sigma_next, history[:order], corrector=None)
        on_step(StepState(i, sigma, x, denoised))
    return x


def _advanced(x: Tensor, sigma_next: float, past: Sequence[tuple[Tensor, float]], corrector: Tensor | None) -> Tensor:
    """From ``x`` at the newest level of ``past`` to ``sigma_next``: predicted, or corrected by ``denoised`` there.

    The differences to the newest ``denoised``, a unit of h apart, are weighted such that polynomials of their number
    come out exactly (eq. 5 and 9).
    """
    newest, sigma = past[0]
    h = math.log(sigma / sigma_next)
    offsets = [math.log(sigma / level) / h for _, level in past[1:]]
    differences = [(denoised - newest) / offset for (denoised, _), offset in zip(past[1:], offsets, strict=True)]
    if corrector is not None:
        offsets.append(1.0)
        differences.append(corrector - newest)
    result = (sigma_next / sigma) * x - math.expm1(-h) * newest
    for weight, difference in zip(_weights(offsets, h), differences, strict=True):
        result = result + (h * weight) * difference  # B(h) = h; the sign is that of data prediction
    return result


def _weights(offsets: Sequence[float], h: float) -> list[float]:
    """How much each difference counts: sum_i rho_i offset_i^(k-1) = k! phi_{k+1}(-h) for k = 1 ... (eq. 5, 9)."""
    if len(offsets) == 1:  # the paper takes the limit for small h
        return [0.5]
    powers = np.vander(offsets, increasing=True).T
    phi = math.expm1(-h) / -h - 1  # -h phi_2(-h); then by recursion -h phi_{k+1}(-h)
    values: list[float] = []
    for k in range(1, len(offsets) + 1):
        values.append(phi * math.factorial(k) / -h)
        phi = phi / -h - 1 / math.factorial(k + 1)
    return [float(weight) for weight in np.linalg.solve(powers, np.array(values))] if offsets else []
