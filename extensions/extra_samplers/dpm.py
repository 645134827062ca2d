"""DPM-Solver, whose steps are its own: fast (of order 3 for a given number of calls) and adaptive (for a tolerance).

Both go from the schedule's first level to its last above 0; the levels between say only when a step counts as done.
With lambda = -log sigma the solvers are the same for eps, v and flow: x and sigma share their scale, so that
``x(s) = (s / sigma) x + ...`` needs no alpha.

Source: Lu et al. 2022, arXiv:2206.00927, algorithms 1 and 2 (noise prediction), section 3.4 and appendix C
(adaptive: DPM-Solver-23).
"""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

from backend.api import Denoiser, NoiseSource, OnStep, Parameters, Prediction, StepState, UserError, number

MOST_CALLS = 1000  # of the adaptive solver; a tolerance that needs more is out of reach in the network's precision


class AdaptiveParameters(Parameters):
    """How exact a step must be."""

    relative: float = number(0.05, low=0.001, high=1.0, step=0.001, label="Relative tolerance")
    absolute: float = number(0.0078, low=0.0001, high=1.0, step=0.0001, label="Absolute tolerance")


class _Slopes:
    """The network as the paper's noise at a level lambda; counts its calls and keeps the latest ``denoised``."""

    def __init__(self, denoise: Denoiser, sigmas: Tensor) -> None:
        self._denoise = denoise
        self._sigmas = sigmas
        self.calls = 0
        self.denoised: Tensor | None = None

    def __call__(self, x: Tensor, lam: float) -> Tensor:
        sigma = self._sigmas.new_tensor(math.exp(-lam))
        self.denoised = self._denoise(x, sigma)
        self.calls += 1
        return (x - self.denoised) / float(sigma)


def _first(x: Tensor, lam: float, h: float, slope: Tensor) -> Tensor:
    return x - math.exp(-lam - h) * math.expm1(h) * slope


def _second(x: Tensor, lam: float, h: float, slope: Tensor, slopes: _Slopes, r: float = 0.5) -> Tensor:
    inner = slopes(_first(x, lam, r * h, slope), lam + r * h)
    return _first(x, lam, h, slope) - math.exp(-lam - h) * math.expm1(h) / (2 * r) * (inner - slope)


def _third(x: Tensor, lam: float, h: float, slope: Tensor, slopes: _Slopes) -> tuple[Tensor, Tensor]:
    """After a step of order 3, and what order 2 gives with the same calls (r = 1/3, 2/3)."""
    r1, r2 = 1 / 3, 2 / 3
    end = math.exp(-lam - h)
    one = slopes(_first(x, lam, r1 * h, slope), lam + r1 * h)
    bend = math.expm1(r2 * h) / (r2 * h) - 1
    middle = _first(x, lam, r2 * h, slope) - math.exp(-lam - r2 * h) * (r2 / r1) * bend * (one - slope)
    two = slopes(middle, lam + r2 * h)
    plain = _first(x, lam, h, slope)
    lower = plain - end * math.expm1(h) / (2 * r1) * (one - slope)
    return plain - end / r2 * (math.expm1(h) / h - 1) * (two - slope), lower


def sample_dpm_fast(denoise: Denoiser, x: Tensor, sigmas: Tensor, *, on_step: OnStep) -> Tensor:
    """As many calls as the schedule has steps, in blocks of three along an even grid in log sigma.

    The last blocks are shorter, so that the count is kept; the call to 0 is one of them.
    """
    levels = [float(sigma) for sigma in sigmas]
    to_zero = levels[-1] == 0
    calls = len(levels) - 1 - to_zero
    start = levels[0]
    slopes = _Slopes(denoise, sigmas)
    end = levels[-2] if to_zero else levels[-1]
    orders = _orders(calls)
    h = math.log(start / end) / max(len(orders), 1)
    for block, order in enumerate(orders):
        lam = -math.log(start) + block * h
        slope = slopes(x, lam)
        x = (
            _third(x, lam, h, slope, slopes)[0]
            if order == 3
            else _second(x, lam, h, slope, slopes)
            if order == 2
            else _first(x, lam, h, slope)
        )
        _tell(on_step, slopes.calls - 1, math.exp(-lam), x, slopes.denoised)
    if to_zero:
        x = denoise(x, sigmas[-2])
        _tell(on_step, len(levels) - 2, end, x, x)
    return x


def _orders(calls: int) -> list[int]:
    """Blocks whose orders sum to ``calls``, as in section 3.4."""
    if calls < 3:
        return [calls] if calls else []
    whole, rest = divmod(calls, 3)
    return [3] * (whole - 1) + [2, 1] if rest == 0 else [3] * whole + [rest]


def sample_dpm_adaptive(
    denoise: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    *,
    prediction: Prediction,  # noqa: ARG001 - a sampler with parameters is given everything
    noise: NoiseSource,  # noqa: ARG001
    on_step: OnStep,
    parameters: AdaptiveParameters,
) -> Tensor:
    """Steps as wide as the difference between orders 2 and 3 allows; the number of calls follows from the tolerance.

    A step of the schedule is done when the solver has passed its level (prompts that change with the steps follow
    that).

    Raises:
        UserError: if the tolerance is not met within 1,000 calls.
    """
    levels = [float(sigma) for sigma in sigmas]
    to_zero = levels[-1] == 0
    lam, end = -math.log(levels[0]), -math.log(levels[-2] if to_zero else levels[-1])
    slopes = _Slopes(denoise, sigmas)
    done, h, previous, slope = 0, 0.05, x, None
    while lam < end - 1e-5:
        _stop_when_lost(slopes.calls)
        h = min(h, end - lam)
        slope = slopes(x, lam) if slope is None else slope
        higher, lower = _third(x, lam, h, slope, slopes)
        tolerance = parameters.relative * lower.abs().maximum(previous.abs()) + parameters.absolute
        error = float(((lower - higher) / tolerance).square().mean().sqrt())
        if error <= 1:
            previous, x, slope = lower, higher, None
            sigma, lam = math.exp(-lam), lam + h
            passed = sum(1 for level in levels[1 : len(levels) - to_zero] if -math.log(level) <= lam + 1e-5)
            if passed > done:
                _tell(on_step, passed - 1, sigma, x, slopes.denoised)
                done = passed
        # At most 2.6 times as wide as before, at least a fifth: of far wider steps the error is not a measure.
        h *= 1 + math.atan(0.9 * max(error, 1e-8) ** (-1 / 3) - 1)
    if to_zero:
        x = denoise(x, sigmas[-2])
        _tell(on_step, len(levels) - 2, levels[-2], x, x)
    return x


def _stop_when_lost(calls: int) -> None:
    if calls > MOST_CALLS:
        raise UserError(
            f"DPM adaptive needs more than {MOST_CALLS:,} calls of the network for this tolerance.",
            "Raise its relative tolerance.",
            field="extensions",
        )


def _tell(on_step: Callable[[StepState], None], index: int, sigma: float, x: Tensor, denoised: Tensor | None) -> None:
    if denoised is not None:
        on_step(StepState(index, sigma, x, denoised))
