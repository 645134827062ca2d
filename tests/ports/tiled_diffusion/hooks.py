"""Tiled Diffusion's core: the network sees overlapping tiles, whose outputs are averaged; so does the decoder.

Source: Bar-Tal et al. 2023, arXiv:2302.08113, equation 5 with equal weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from backend.api import (
    Call,
    JobView,
    ModelCall,
    ModelView,
    PanelSpec,
    Parameters,
    Patch,
    VaeDecode,
    hookimpl,
    whole,
)

CELL = 8  # pixels of a latent cell's side


class Tiles(Parameters):
    """Sizes in latent cells."""

    side: int = whole(96, low=4, high=512, label="Tile", help="Side of a tile, in latent cells of 8 pixels.")
    overlap: int = whole(48, low=0, high=256, label="Overlap")


@hookimpl
def register_panels() -> list[PanelSpec]:
    """One panel."""
    return [PanelSpec("tiles", "Tiled diffusion", Tiles)]


@hookimpl
def patch_job(job: JobView, model: ModelView) -> list[Patch]:
    """Around the network and around the decoder."""
    del model
    values = job.values["tiles"]
    if not isinstance(values, Tiles):
        return []

    def network(x: Tensor, _call: Call, run: Callable[[Tensor], Tensor]) -> Tensor:
        return _averaged(x, run, values, 1)

    def decoder(raw: Tensor, run: Callable[[Tensor], Tensor]) -> Tensor:
        return _averaged(raw, run, values, CELL)

    return [ModelCall(wrap=network, label="tiles"), VaeDecode(wrap=decoder, label="tiles")]


def _averaged(x: Tensor, run: Callable[[Tensor], Tensor], tiles: Tiles, scale: int) -> Tensor:
    if max(x.shape[-2:]) <= tiles.side:
        return run(x)
    total = count = None
    for rows in _spans(x.shape[-2], tiles):
        for columns in _spans(x.shape[-1], tiles):
            out = run(x[..., rows, columns])
            if total is None or count is None:
                total = out.new_zeros(*out.shape[:2], scale * x.shape[-2], scale * x.shape[-1])
                count = torch.zeros_like(total[:1, :1])
            place = (..., _scaled(rows, scale), _scaled(columns, scale))
            total[place] += out
            count[place] += 1
    if total is None or count is None:
        raise ValueError("a latent has at least one tile")
    return total / count


def _spans(length: int, tiles: Tiles) -> Iterator[slice]:
    """Pieces of at most the tile's side that overlap and cover everything, all of one length."""
    side, step = min(tiles.side, length), max(1, tiles.side - tiles.overlap)
    count = max(1, -(-(length - side) // step) + 1)
    for number in range(count):
        begin = min(number * step, length - side)
        yield slice(begin, begin + side)


def _scaled(span: slice, scale: int) -> slice:
    return slice(span.start * scale, span.stop * scale)
