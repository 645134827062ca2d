"""Frequency-decoupled guidance: one strength for what is coarse in the picture, another for what is fine.

A high strength of the coarse part burns colours and makes pictures alike; one of the fine part gives detail.
Source: Sadat et al. 2025, arXiv:2506.19713, algorithm 1 (Laplacian pyramid); on clean latents.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from backend.api import BadRequest, BeforeGuidance, Outputs, Parameters, Patch, number, whole

_BINOMIAL = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)  # Burt and Adelson's kernel for pyramids


class FdgParameters(Parameters):
    """Both strengths, as parts of the CFG scale."""

    low: float = number(0.6, low=0.0, high=3.0, label="Coarse", help="Times the CFG scale.")
    high: float = number(1.2, low=0.0, high=3.0, label="Fine", help="Times the CFG scale.")
    levels: int = whole(1, low=1, high=4, label="Halvings", help="How coarse the coarse part is.")


def fdg_patches(parameters: FdgParameters, cfg_scale: float) -> list[Patch]:
    """The uncond latent such that the usual combination weighs both parts by their strengths.

    Raises:
        BadRequest: at CFG scale 1, where there is nothing to divide.
    """
    if parameters.low == 1 and parameters.high == 1:
        return []
    if cfg_scale == 1:
        raise BadRequest(
            "Frequency-decoupled guidance divides classifier-free guidance, which CFG scale 1 turns off.",
            "Raise the CFG scale or switch it off.",
            field="extensions",
        )
    return [BeforeGuidance(change=decoupling(parameters), label="decoupled frequencies")]


def decoupling(parameters: FdgParameters) -> Callable[[Outputs], Mapping[str, Tensor]]:
    """cond + (low * scale - 1) * coarse + (high * scale - 1) * fine, where coarse + fine = cond - uncond.

    As uncond = cond - that change / (scale - 1), so that the combination gives it and others can follow.
    """

    def change(outputs: Outputs) -> Mapping[str, Tensor]:
        cond, uncond, scale = outputs.denoised["cond"], outputs.denoised.get("uncond"), outputs.scale
        if uncond is None or scale == 1:
            return {}
        direction = cond - uncond
        coarse = coarse_part(direction, parameters.levels)
        moved = (parameters.low * scale - 1) * coarse + (parameters.high * scale - 1) * (direction - coarse)
        return {"uncond": cond - moved / (scale - 1)}

    return change


def coarse_part(x: Tensor, levels: int) -> Tensor:
    """What a pyramid keeps after so many halvings, at the size of ``x`` again; sides of 1 are not halved."""
    if levels == 0 or min(x.shape[2:]) < 3:
        return x
    kernel = x.new_tensor(_BINOMIAL)
    weight = torch.outer(kernel, kernel).expand(x.shape[1], 1, 5, 5)
    halved = F.conv2d(F.pad(x, (2, 2, 2, 2), mode="reflect"), weight, stride=2, groups=x.shape[1])
    return F.interpolate(coarse_part(halved, levels - 1), size=x.shape[2:], mode="bilinear", align_corners=False)
