"""Smoothed-energy guidance: away from what the network gives when its queries are blurred over the picture.

Source: Hong 2024, arXiv:2408.00760, section 4: blurring the queries is blurring the attention's scores, which flattens
the energy; the guided latent is cond + scale * (cond - smoothed).
"""

from __future__ import annotations

import torch
from torch import Tensor

from backend.api import (
    QKV,
    AddBranch,
    AfterGuidance,
    AttentionInput,
    Call,
    ModelView,
    Parameters,
    Patch,
    Place,
    Scope,
    check_window,
    number,
    text,
    token_grid,
)
from extensions.guidance.blocks import away_from, named_blocks

BRANCH = "smoothed"
UNIFORM = 100.0  # from this width on every query becomes the mean


class SegParameters(Parameters):
    """How strongly, how wide, where and when."""

    scale: float = number(2.0, low=0.0, high=15.0, step=0.1, label="Scale", help="The paper: 3, with less CFG.")
    blur: float = number(
        UNIFORM, low=0.0, high=UNIFORM, step=0.5, label="Blur", help="In tokens; 100: every query is the mean."
    )
    blocks: str = text("", longest=400, label="Blocks", help="Such as middle.0 or joint.7, joint.8; empty: the middle.")
    start: float = number(0.0, low=0.0, high=1.0, label="From", help="Share of the steps.")
    end: float = number(1.0, low=0.0, high=1.0, label="To", help="Share of the steps.")


def seg_patches(parameters: SegParameters, model: ModelView) -> list[Patch]:
    """One branch more, with blurred queries, and its term in the guided latent.

    Raises:
        BadRequest: if the window is empty.
    """
    check_window("Smoothed-energy guidance", parameters.start, parameters.end)
    if parameters.scale == 0 or parameters.blur == 0:
        return []
    window = Scope(start=parameters.start, end=parameters.end)
    smoothed = Scope(
        blocks=named_blocks(parameters.blocks, model),
        attentions=("self", "joint", "image"),
        branches=(BRANCH,),
        start=parameters.start,
        end=parameters.end,
    )

    def blur(qkv: QKV, place: Place, call: Call) -> QKV:
        return qkv._replace(q=blurred(qkv.q, token_grid(call, place), parameters.blur))

    return [
        AddBranch(branch=BRANCH, scope=window, label="smoothed branch"),
        AttentionInput(change=blur, scope=smoothed, label="blurred queries", in_tiles=True),
        AfterGuidance(change=away_from(BRANCH, parameters.scale), scope=window, label="smoothed-energy term"),
    ]


def blurred(q: Tensor, grid: tuple[int, int], width: float) -> Tensor:
    """Queries (B, heads, T, D) whose last h * w, those of the image, are blurred over the grid; text stays as it is."""
    height, columns = grid
    text = q.shape[2] - height * columns
    image = q[:, :, text:]
    if width >= UNIFORM:
        image = image.mean(dim=2, keepdim=True).expand_as(image)
    else:
        rows, across = (_gaussian(length, width).to(q) for length in (height, columns))
        image = image.unflatten(2, (height, columns))  # (B, heads, h, w, D)
        image = torch.einsum("ij,kl,bnjld->bnikd", rows, across, image).flatten(2, 3)
    return torch.cat([q[:, :, :text], image], dim=2)


def _gaussian(length: int, width: float) -> Tensor:
    """What each of ``length`` places takes of every other, (length, length); at an end the rest has more weight."""
    at = torch.arange(length, dtype=torch.float32)
    weights = (-((at[:, None] - at) ** 2) / (2 * width**2)).exp()
    return weights / weights.sum(dim=1, keepdim=True)
