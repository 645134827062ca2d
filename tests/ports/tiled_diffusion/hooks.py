"""Tiled Diffusion's core: the network sees overlapping tiles, whose outputs are averaged; so does the decoder. And its
noise inversion: img2img begins from the noise that leads to the picture, instead of any.

Source: Bar-Tal et al. 2023, arXiv:2302.08113, equation 5 with equal weights; Song et al. 2021, arXiv:2010.02502,
section 4.3 for the inversion.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import torch
from torch import Tensor

from backend.api import (
    AroundSampling,
    BadRequest,
    Call,
    JobView,
    ModelCall,
    ModelView,
    PanelSpec,
    Parameters,
    Patch,
    RunModel,
    SamplingStart,
    VaeDecode,
    flag,
    hookimpl,
    number,
    whole,
)

CELL = 8  # pixels of a latent cell's side


class Tiles(Parameters):
    """Sizes in latent cells."""

    side: int = whole(96, low=4, high=512, label="Tile", help="Side of a tile, in latent cells of 8 pixels.")
    overlap: int = whole(48, low=0, high=256, label="Overlap")
    own_positions: bool = flag(
        True,
        label="Each tile a picture",
        help="SD3.5: else its positions are those in the whole, as far as it was trained.",
    )
    inversion: float = number(
        0.0, low=0.0, high=1.0, label="Noise inversion", help="img2img: how much of the noise is the picture's own."
    )


@hookimpl
def register_panels() -> list[PanelSpec]:
    """One panel."""
    return [PanelSpec("tiles", "Tiled diffusion", Tiles)]


@hookimpl
def patch_job(job: JobView, model: ModelView) -> list[Patch]:
    """Around the sampling, the network and the decoder; the last two not where the picture is one tile."""
    values = job.values["tiles"]
    height, width = model.latent[1:]
    if not isinstance(values, Tiles):
        return []

    def invert(x: Tensor, start: SamplingStart, run: Callable[[Tensor], Tensor]) -> Tensor:
        return run(torch.lerp(x, inverted(start), values.inversion))

    around: list[Patch] = [AroundSampling(wrap=invert, label="inversion")] if values.inversion else []
    if max(height, width) <= values.side:
        return around
    grid = max(place.scale for place in model.places)  # tiles begin where the coarsest features do

    def network(x: Tensor, _call: Call, run: RunModel) -> Tensor:
        def tile(part: Tensor, top: int, left: int) -> Tensor:
            return run(part, (top, left), own_positions=values.own_positions)

        return _averaged(x, tile, values, grid)

    def decoder(raw: Tensor, run: Callable[[Tensor], Tensor]) -> Tensor:
        return _averaged(raw, lambda part, _top, _left: run(part), values, 1, CELL)

    tiles = [ModelCall(wrap=network, makes_tiles=True, label="tiles"), VaeDecode(wrap=decoder, label="tiles")]
    return [*around, *tiles]


def inverted(start: SamplingStart) -> Tensor:
    """The ``x`` from which the sampling would come back to the picture: its steps the other way round, by Euler.

    The slope at the picture itself, where no noise is left, is taken at the lowest level that has some.
    """
    if start.init is None:
        raise BadRequest("Noise inversion needs a picture to start from.", "Use it in img2img.", field="extensions")
    levels = start.sigmas.flip(0).to(start.noise)
    lowest = levels[levels > 0][0]
    x = start.init.expand_as(start.noise)
    for sigma, following in pairwise(levels):
        level = torch.maximum(sigma, lowest)
        x = x + (x - start.denoise(x, level)) / level * (following - sigma)
    return x


def _averaged(x: Tensor, run: Callable[[Tensor, int, int], Tensor], tiles: Tiles, grid: int, scale: int = 1) -> Tensor:
    """What ``run`` makes of each tile, in the middle of the others; ``scale`` times as large."""
    height, width = x.shape[2], x.shape[3]
    total = count = None
    for rows in _spans(height, tiles, grid):
        for columns in _spans(width, tiles, grid):
            out = run(x[..., rows, columns], rows.start, columns.start)
            if total is None or count is None:
                total = out.new_zeros(*out.shape[:2], scale * height, scale * width)
                count = torch.zeros_like(total[:1, :1])
            place = (..., _scaled(rows, scale), _scaled(columns, scale))
            total[place] += out
            count[place] += 1
    if total is None or count is None:
        raise ValueError("a latent has at least one tile")
    return total / count


def _spans(length: int, tiles: Tiles, grid: int) -> Iterator[slice]:
    """Pieces that overlap and cover everything and begin on the grid; the last one may be longer by less than that."""
    side = max(grid, min(tiles.side, length) // grid * grid)
    step = max(grid, (side - tiles.overlap) // grid * grid)
    last = (length - side) // grid * grid
    for begin in dict.fromkeys([*range(0, last, step), last]):
        yield slice(begin, length if begin == last else begin + side)


def _scaled(span: slice, scale: int) -> slice:
    return slice(span.start * scale, span.stop * scale)
