"""Differential diffusion: a place of the picture is let go from the step on that its mask's strength says.

Source: Levin and Fried 2023, arXiv:2306.00950, algorithm 1: in each step the places whose strength is below the step's
threshold are put back to the noised original; the threshold falls evenly over the steps.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from backend.api import Parameters, Patch, StepMask, number


class SoftParameters(Parameters):
    """How the mask's greys become shares of the steps."""

    power: float = number(
        1.0, low=0.1, high=5.0, step=0.1, label="Power", help="Of the mask's strength; above 1 grey places change less."
    )
    least: float = number(
        0.0, low=0.0, high=0.95, label="Left alone below", help="Places whose strength is lower do not change at all."
    )
    softness: float = number(
        0.0, low=0.0, high=1.0, label="Fade", help="0: a place is let go at once; 1: over as many steps as it waited."
    )


def soft_patches(parameters: SoftParameters) -> list[Patch]:
    """The mask of each step."""
    return [StepMask(mask=released(parameters), label="soft mask")]


def released(parameters: SoftParameters) -> Callable[[Tensor, int, int], Tensor]:
    """Strength 1 is let go in every step, strength s in those from the share 1 - s on, 0 in none.

    What is let go fades in, with ``softness``, over a share of the steps before; strengths 0 and 1 have nothing to wait
    for, so that a mask without greys is the ordinary one.
    """

    def mask(soft: Tensor, step: int, steps: int) -> Tensor:
        strength = soft.clamp(0, 1) ** parameters.power
        strength = torch.where(soft < parameters.least, 0.0, strength)
        late = (1 - strength) - step / steps  # below 0: it has been let go
        width = parameters.softness * (1 - strength)
        faded = (1 - late / width.clamp(min=1e-6)).clamp(0, 1)
        return torch.where(strength == 0, 0.0, torch.where(late <= 1e-6, 1.0, torch.where(width > 0, faded, 0.0)))

    return mask
