"""Weights that differ by step, branch and place in the picture: which adapters act in a network call.

A branch is evaluated once for every set of adapters that acts somewhere in the picture, and the network's outputs are
mixed by the adapters' regions. Outputs mix as clean latents do, since the shares of all sets sum to 1 in every cell. So
whatever an adapter does, to whichever layer, it is the whole network with it that makes its region.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from backend.diffusion.boxes import region_map
from backend.diffusion.patching import Scope

Acting = frozenset[int]
#: Each set of adapters that acts somewhere, with its share of every cell (1, 1, h, w); None: of the whole picture.
Mix = tuple[tuple[Acting, Tensor | None], ...]

NONE_ACTING: Acting = frozenset()
_NOTHING = 1e-4  # a share too small to evaluate the network for: what rounding leaves of regions that sum to 1


class WeightSets:
    """The adapters of a job that act in some steps, branches or regions only.

    Args:
        scopes: one for each of them; their steps, branches and region count.
        use: has exactly those with these numbers in the network's weights, beside those that act always.
    """

    def __init__(self, scopes: Sequence[Scope], use: Callable[[Acting], None]) -> None:
        self._scopes = tuple(scopes)
        self._use = use
        self._mixes: dict[tuple[Acting, int, int], Mix] = {}

    def use(self, acting: Acting) -> None:
        """Have exactly these in the weights for the next calls of the network."""
        self._use(acting)

    def mix(self, branch: str, step: int, steps: int, height: int, width: int) -> Mix:
        """What a branch is made of in a step; ``height`` and ``width`` of the latent, in cells."""
        acting = [i for i, scope in enumerate(self._scopes) if scope.acts_at(step, steps) and scope.covers(branch)]
        key = (frozenset(acting), height, width)
        if key not in self._mixes:
            self._mixes[key] = self._mixed(acting, height, width)
        return self._mixes[key]

    def _mixed(self, acting: Sequence[int], height: int, width: int) -> Mix:
        """Adapters with the same region are one set; where regions overlap, the differences that they make add up."""
        everywhere = frozenset(i for i in acting if self._scopes[i].region is None)
        regions: list[tuple[Tensor, set[int]]] = []
        for i in acting:
            region = self._scopes[i].region
            if region is None:
                continue
            same = next((numbers for other, numbers in regions if torch.equal(other, region)), None)
            if same is None:
                regions.append((region, {i}))
            else:
                same.add(i)
        shares = [(everywhere | numbers, region_map(region, height, width)) for region, numbers in regions]
        shares = [(numbers, share) for numbers, share in shares if bool((share > _NOTHING).any())]
        if not shares:
            return ((everywhere, None),)
        whole = torch.stack([share for _, share in shares]).sum(0)
        if bool(((1 - whole).abs() > _NOTHING).any()):
            return ((everywhere, 1 - whole), *shares)
        return (
            tuple((numbers, share / whole) for numbers, share in shares) if len(shares) > 1 else ((shares[0][0], None),)
        )


def mixed(outputs: Sequence[Tensor], mix: Mix) -> Tensor:
    """One output (B, C, h, w) of those that the sets of adapters gave."""
    total: Tensor | None = None
    for output, (_, share) in zip(outputs, mix, strict=True):
        part = output if share is None else output * share.to(output)
        total = part if total is None else total + part
    if total is None:
        raise ValueError("nothing acts, not even the weights as they are")
    return total
