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
    Call,
    ModelView,
    Parameters,
    Patch,
    Place,
    Scope,
    check_window,
    number,
    text,
)
from extensions.guidance.blocks import away_from, named_blocks

BRANCH = "perturbed"


class PagParameters(Parameters):
    """How strongly, where and when."""

    scale: float = number(1.5, low=0.0, high=15.0, step=0.1, label="Scale", help="The paper: 3, with less CFG.")
    blocks: str = text("", longest=400, label="Blocks", help="Such as middle.0 or joint.7, joint.8; empty: the middle.")
    start: float = number(0.0, low=0.0, high=1.0, label="From", help="Share of the steps.")
    end: float = number(1.0, low=0.0, high=1.0, label="To", help="Share of the steps.")


def pag_patches(parameters: PagParameters, model: ModelView) -> list[Patch]:
    """One branch more, whose image tokens attend to themselves alone, and its term in the guided latent.

    Raises:
        BadRequest: if the window is empty.
    """
    check_window("Perturbed-attention guidance", parameters.start, parameters.end)
    if parameters.scale == 0:
        return []
    window = Scope(start=parameters.start, end=parameters.end)
    perturbed = Scope(
        blocks=named_blocks(parameters.blocks, model),
        attentions=("self", "joint", "image"),
        branches=(BRANCH,),
        start=parameters.start,
        end=parameters.end,
    )
    return [
        AddBranch(branch=BRANCH, scope=window, label="perturbed branch"),
        AttentionReplace(replace=attend_to_self, scope=perturbed, label="identity attention", in_tiles=True),
        AfterGuidance(change=away_from(BRANCH, parameters.scale), scope=window, label="perturbed-attention term"),
    ]


def attend_to_self(qkv: QKV, place: Place, call: Call, attend: Callable[[QKV], Tensor]) -> Tensor:
    """Each image token's own value; text tokens of a joint attention attend as before.

    Equation 11: the attention map is the identity, so that what comes out is V.
    """
    if place.attention != "joint":
        return qkv.v.expand_as(qkv.q)
    plain = attend(qkv)
    return torch.cat([plain[:, :, : call.text_tokens], qkv.v[:, :, call.text_tokens :]], dim=2)
