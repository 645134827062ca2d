"""Adaptive projected guidance: high CFG scales without their burnt colours.

Of the guidance's direction the part along the prompt's own prediction, which saturates, is weakened; its length is
bounded; and what earlier steps wanted is taken back by a negative momentum.

Source: Sadat et al. 2024, arXiv:2410.02416, algorithm 1; all on clean latents, as there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from torch import Tensor

from backend.api import BeforeGuidance, Outputs, Parameters, Patch, number

PAPERS_NUMBERS = 4 * 128 * 128  # of an SDXL latent of 1024 x 1024, for which the paper gives its norms


class ApgParameters(Parameters):
    """What becomes of the guidance's direction."""

    eta: float = number(0.0, low=0.0, high=1.0, label="Parallel part", help="Of the direction that saturates; 1: all.")
    norm: float = number(
        7.5,
        low=0.0,
        high=100.0,
        step=0.5,
        label="Longest",
        help="At SDXL's 1024 x 1024; the paper: 15; 0: no bound.",
    )
    momentum: float = number(
        -0.25, low=-0.95, high=0.95, label="Momentum", help="Below 0 earlier steps are taken back."
    )


def apg_patches(parameters: ApgParameters) -> list[Patch]:
    """The uncond latent such that the usual combination moves along the changed direction."""
    if parameters.eta == 1 and parameters.norm == 0 and parameters.momentum == 0:
        return []
    return [BeforeGuidance(change=projecting(parameters), label="projected direction")]


def projecting(parameters: ApgParameters) -> Callable[[Outputs], Mapping[str, Tensor]]:
    """With uncond = cond - direction CFG is cond + (scale - 1) * direction, the paper's equation; others can follow.

    The momentum begins anew where the noise does not fall: at the start of a batch, or after a sampler's jump up.
    """
    running: list[Tensor] = []
    last_sigma = [math.inf]

    def change(outputs: Outputs) -> Mapping[str, Tensor]:
        if outputs.sigma >= last_sigma[0]:
            running.clear()
        last_sigma[0] = outputs.sigma
        cond, uncond = outputs.denoised["cond"], outputs.denoised.get("uncond")
        if uncond is None:
            return {}
        direction = cond - uncond
        if running and running[0].shape == direction.shape:
            direction = direction + parameters.momentum * running[0]
        running[:] = [direction]
        return {"uncond": cond - projected(direction, cond, parameters.norm, parameters.eta)}

    return change


def projected(direction: Tensor, cond: Tensor, longest: float, eta: float) -> Tensor:
    """The direction cut to a length, its part along ``cond`` times ``eta``, image by image."""
    if longest > 0:
        bound = longest * math.sqrt(direction[0].numel() / PAPERS_NUMBERS)
        length = direction.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        direction = direction * (bound / length.clamp(min=1e-12)).clamp(max=1)
    axis = cond / cond.flatten(1).norm(dim=1).view(-1, 1, 1, 1).clamp(min=1e-12)
    parallel = (direction * axis).sum(dim=(1, 2, 3), keepdim=True) * axis
    return direction + (eta - 1) * parallel
