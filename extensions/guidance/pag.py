"""Perturbed-attention guidance: away from what the network gives when image tokens see only themselves.

Source: Ahn et al. 2024, arXiv:2403.17377, section 4; the middle of the network by default, as there.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from backend.api import (
    QKV,
    AddBranch,
    AfterGuidance,
    AttentionReplace,
    BadRequest,
    Call,
    ModelView,
    Outputs,
    Parameters,
    Patch,
    Place,
    Scope,
    number,
    text,
)

BRANCH = "perturbed"


class PagParameters(Parameters):
    """How strongly, where and when."""

    scale: float = number(3.0, low=0.0, high=15.0, step=0.1, label="Scale")
    blocks: str = text("", longest=400, label="Blocks", help="Such as middle.0 or joint.7, joint.8; empty: the middle.")
    start: float = number(0.0, low=0.0, high=1.0, label="From", help="Share of the steps.")
    end: float = number(1.0, low=0.0, high=1.0, label="To", help="Share of the steps.")


def pag_patches(parameters: PagParameters, model: ModelView) -> list[Patch]:
    """One branch more, whose image tokens attend to themselves alone, and its term in the guided latent.

    Raises:
        BadRequest: if the window is empty.
    """
    if parameters.start >= parameters.end:
        raise BadRequest("Perturbed-attention guidance: From must lie before To.", field="extensions")
    if parameters.scale == 0:
        return []
    blocks = tuple(name.strip() for name in parameters.blocks.split(",") if name.strip()) or middle_blocks(model)
    window = Scope(start=parameters.start, end=parameters.end)
    perturbed = Scope(
        blocks=blocks,
        attentions=("self", "joint", "image"),
        branches=(BRANCH,),
        start=parameters.start,
        end=parameters.end,
    )
    return [
        AddBranch(branch=BRANCH, scope=window, label="perturbed branch"),
        AttentionReplace(replace=attend_to_self, scope=perturbed, label="identity attention"),
        AfterGuidance(change=away_from(BRANCH, parameters.scale), scope=window, label="perturbed-attention term"),
    ]


def middle_blocks(model: ModelView) -> tuple[str, ...]:
    """The block with attention that is nearest to half way: a U-Net's middle, or the middle one of an MMDiT."""
    attending = [place for place in model.places if place.attention in ("self", "joint")]
    nearest = min(attending, key=lambda place: abs(place.depth - 0.5))
    return (nearest.block,)


def attend_to_self(qkv: QKV, place: Place, call: Call, attend: Callable[[QKV], Tensor]) -> Tensor:
    """Each image token's own value; text tokens of a joint attention attend as before.

    Equation 11: the attention map is the identity, so that what comes out is V.
    """
    if place.attention != "joint":
        return qkv.v.expand_as(qkv.q)
    plain = attend(qkv)
    return torch.cat([plain[:, :, : call.text_tokens], qkv.v[:, :, call.text_tokens :]], dim=2)


def away_from(branch: str, scale: float) -> Callable[[Tensor, Outputs], Tensor]:
    """``guided + scale * (cond - branch)`` on clean latents (equation 16)."""

    def change(guided: Tensor, outputs: Outputs) -> Tensor:
        return guided + scale * (outputs.denoised["cond"] - outputs.denoised[branch])

    return change
