"""Schedules beyond the core's: KL optimal, polyexponential, align-your-steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from backend.api import Prediction, ScheduleSpec

POLYEXPONENTIAL_POWER = 0.7  # 1 is the core's "exponential"; below 1 more steps see high noise

# Sabour et al. 2024, arXiv:2404.14507, the authors' published levels for ten steps; the last falls to 0 at ten.
ALIGNED = {
    "sd1": (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029),
    "sdxl": (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029),
    "svd": (700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002),
}


def kl_optimal(prediction: Prediction, steps: int) -> Tensor:
    """Even in the angle arctan(sigma / alpha), between the ends of the table: least KL divergence on Gaussian data.

    On flow sigma / alpha is sigma / (1 - sigma), whose angle at the top is 90 degrees.
    Source: Sabour et al. 2024, arXiv:2404.14507, section 3 (alpha = 1 there).
    """
    high, low = (
        math.atan2(sigma, max(prediction.alpha(sigma), 0.0)) for sigma in (prediction.sigma_max, prediction.sigma_min)
    )
    angles = torch.linspace(high, low, steps, dtype=torch.float64)
    sine, cosine = angles.sin(), angles.cos()
    return _ended(sine / (sine + cosine) if prediction.kind == "flow" else sine / cosine)


def polyexponential(prediction: Prediction, steps: int) -> Tensor:
    """Log sigma falls as a power of the share of the steps, 0.7, between the ends of the table (k-diffusion)."""
    high, low = math.log(prediction.sigma_max), math.log(prediction.sigma_min)
    share = torch.linspace(1, 0, steps, dtype=torch.float64) ** POLYEXPONENTIAL_POWER
    return _ended((low + share * (high - low)).exp())


def aligned(levels: Sequence[float], prediction: Prediction, steps: int) -> Tensor:
    """The published levels, for other numbers of steps log-linearly between them; it starts at the model's own top.

    They are ratios of noise to signal: on flow they mean the level with the same ratio, r / (1 + r), whatever the
    shift, which the schedule replaces as linear-quadratic does. Levels above the model's top are left out.
    """
    within = [_level(ratio, prediction) for ratio in levels]
    nodes = torch.tensor(
        [prediction.sigma_max, *(level for level in within[1:] if level < prediction.sigma_max)], dtype=torch.float64
    ).log()
    places = torch.linspace(0, len(nodes) - 1, steps + 1, dtype=torch.float64)[:-1]
    low = places.floor().long().clamp(max=len(nodes) - 2)
    return _ended(torch.lerp(nodes[low], nodes[low + 1], places - low).exp())


def _level(ratio: float, prediction: Prediction) -> float:
    return ratio / (1 + ratio) if prediction.kind == "flow" else ratio


def _ended(sigmas: Tensor) -> Tensor:
    return torch.cat([sigmas, sigmas.new_zeros(1)]).to(torch.float32)


SCHEDULES = (
    ScheduleSpec("kl_optimal", "KL Optimal", kl_optimal),
    ScheduleSpec("polyexponential", "Polyexponential", polyexponential),
    ScheduleSpec("align_your_steps", "Align Your Steps", partial(aligned, ALIGNED["sdxl"])),
    ScheduleSpec("align_your_steps_sd1", "Align Your Steps SD1", partial(aligned, ALIGNED["sd1"])),
    ScheduleSpec("align_your_steps_svd", "Align Your Steps SVD", partial(aligned, ALIGNED["svd"])),
)
