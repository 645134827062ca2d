"""What a guidance network hands to the U-Net for one call; the MMDiT takes a plain sequence of token tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from torch import Tensor

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
        return UNetResiduals(
            {block: t * strength for block, t in self.skips.items()},
            None if self.middle is None else self.middle * strength,
            {block: t * strength for block, t in self.inputs.items()},
        )

    def plus(self, other: UNetResiduals) -> UNetResiduals:
        """The sum of two guidance networks' residuals."""
        middles = [t for t in (self.middle, other.middle) if t is not None]
        return UNetResiduals(
            _summed(self.skips, other.skips),
            middles[0] + middles[1] if len(middles) == 2 else (middles[0] if middles else None),
            _summed(self.inputs, other.inputs),
        )


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
