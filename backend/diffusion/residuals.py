"""What guidance networks hand to a denoiser for one call: feature maps to the U-Net, token tensors to the MMDiT."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from torch import Tensor

from backend.diffusion.boxes import region_map

_NONE: Mapping[int, Tensor] = MappingProxyType({})


@dataclass(frozen=True)
class UNetResiduals:
    """Feature maps that are added inside the U-Net; batch 1 serves a whole batch.

    Attributes:
        skips: by input block, what is added to its output where that goes over to the output blocks (ControlNet); the
            next input block does not see it.
        middle: what is added to the output of the middle block.
        inputs: by input block, what is added to its output for everything after it (T2I-Adapter).
    """

    skips: Mapping[int, Tensor] = field(default_factory=lambda: _NONE)
    middle: Tensor | None = None
    inputs: Mapping[int, Tensor] = field(default_factory=lambda: _NONE)

    def scaled(self, strength: float) -> UNetResiduals:
        """All of them times a number."""
        return self.each(lambda t: t * strength)

    def each(self, change: Callable[[Tensor], Tensor]) -> UNetResiduals:
        """All of them changed in the same way."""
        return UNetResiduals(
            {block: change(t) for block, t in self.skips.items()},
            None if self.middle is None else change(self.middle),
            {block: change(t) for block, t in self.inputs.items()},
        )

    def plus(self, other: UNetResiduals) -> UNetResiduals:
        """The sum of two guidance networks' residuals."""
        middles = [t for t in (self.middle, other.middle) if t is not None]
        return UNetResiduals(
            _summed(self.skips, other.skips),
            middles[0] + middles[1] if len(middles) == 2 else (middles[0] if middles else None),
            _summed(self.inputs, other.inputs),
        )


Residual = UNetResiduals | Sequence[Tensor]  # of either network


def summed(residuals: Sequence[Residual]) -> Residual:
    """What several guidance networks add together.

    An MMDiT's may be of different numbers: each is repeated to their least common multiple, which ``spread`` hands to
    the same blocks as before, since floor(floor(b k n / d) / k) = floor(b n / d).
    """
    first = residuals[0]
    for other in residuals[1:]:
        if isinstance(first, UNetResiduals) and isinstance(other, UNetResiduals):
            first = first.plus(other)
        elif not isinstance(first, UNetResiduals) and not isinstance(other, UNetResiduals):
            count = math.lcm(len(first), len(other))
            first = [first[i * len(first) // count] + other[i * len(other) // count] for i in range(count)]
        else:
            raise TypeError("residuals of a U-Net and of an MMDiT cannot be added")
    return first


def within(residual: Residual, region: Tensor, height: int, width: int) -> Residual:
    """A residual weighted by a region of the picture.

    Args:
        region: (h, w), 0 to 1, at any size.
        height, width: of the latent, in cells, which tell how the tokens lie.
    """

    def on_map(t: Tensor) -> Tensor:
        return t * region_map(region, *t.shape[-2:]).to(t)

    def on_tokens(t: Tensor) -> Tensor:
        side = round(math.sqrt(height * width / t.shape[1]))  # of a patch, in cells
        return t * region_map(region, height // side, width // side).reshape(1, -1, 1).to(t)

    return residual.each(on_map) if isinstance(residual, UNetResiduals) else [on_tokens(t) for t in residual]


def spread(residuals: Sequence[Tensor], block: int, depth: int) -> Tensor:
    """Which of the MMDiT's residuals block ``block`` of ``depth`` takes: each serves as many blocks in a row.

    Source: Stability-AI/sd3.5, mmditx.py: every block takes one, the last as well (FORMATS.md, section 1, row 11).
    """
    return residuals[block * len(residuals) // depth]


def _summed(a: Mapping[int, Tensor], b: Mapping[int, Tensor]) -> dict[int, Tensor]:
    return {
        block: a[block] + b[block] if block in a and block in b else (a[block] if block in a else b[block])
        for block in sorted({*a, *b})
    }
