"""Forge Couple's core: a line of the prompt for each column or row, whose image tokens read that line alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from backend.api import (
    QKV,
    AttentionBias,
    Call,
    ChangeConditioning,
    Conditioning,
    JobView,
    ModelView,
    PanelSpec,
    Parameters,
    Patch,
    Place,
    Scope,
    choice,
    hookimpl,
    token_grid,
)


class Couple(Parameters):
    """Which way the lines lie."""

    direction: Literal["columns", "rows"] = choice("columns", label="Direction")


@hookimpl
def register_panels() -> list[PanelSpec]:
    """One panel."""
    return [PanelSpec("couple", "Couple", Couple, help="A line of the prompt for each part of the picture.")]


@hookimpl
def patch_job(job: JobView, model: ModelView) -> list[Patch]:
    """The lines one after another as the context, and who may read which."""
    values = job.values["couple"]
    lines = [line for line in job.request.prompt.splitlines() if line.strip()]
    if not isinstance(values, Couple) or len(lines) < 2:
        job.note("Couple needs two lines at least; the prompt stays whole.")
        return []
    parts = [model.encode(line) for line in lines]
    owners = torch.cat([torch.full((part.tokens,), number) for number, part in enumerate(parts)])

    def joined(conditioning: Conditioning, _branch: str) -> Conditioning:
        pooled = None
        if conditioning.pooled is not None:
            pooled = torch.stack([part.pooled for part in parts if part.pooled is not None]).mean(dim=0)
        return replace(conditioning, context=torch.cat([part.context for part in parts], dim=1), pooled=pooled)

    def bias(qkv: QKV, place: Place, call: Call) -> Tensor | None:
        if place.attention == "image":
            return None
        height, width = token_grid(call, place)
        image = _line_of_tokens(height, width, len(lines), values.direction).to(qkv.q.device)
        text = owners.to(qkv.q.device)
        if place.attention == "cross":
            return _hide(image[:, None] != text.repeat(qkv.k.shape[2] // len(text)))
        asking = torch.cat([text, image])
        hidden = torch.zeros(len(asking), len(asking), dtype=torch.bool, device=text.device)
        hidden[:, : len(text)] = asking[:, None] != text
        return _hide(hidden)

    own = Scope(branches=("cond",), attentions=("cross", "joint", "image"))
    return [
        ChangeConditioning(change=joined, prompts="positive", label="lines"),
        AttentionBias(bias=bias, scope=own, label="lines"),
    ]


def _line_of_tokens(height: int, width: int, count: int, direction: str) -> Tensor:
    across = torch.arange(width if direction == "columns" else height) * count
    line = across // (width if direction == "columns" else height)
    grid = line.expand(height, width) if direction == "columns" else line[:, None].expand(height, width)
    return grid.flatten()


def _hide(hidden: Tensor) -> Tensor:
    return torch.zeros(hidden.shape, device=hidden.device).masked_fill(hidden, float("-inf"))
