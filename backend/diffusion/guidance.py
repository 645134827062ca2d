"""Classifier-free guidance on network outputs: how cond and uncond become one, and in which steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Guidance:
    """How strongly the prompt steers, and when.

    Args:
        scale: classifier-free guidance weight; 1 is off.
        rescale: 0..1, how much of the outputs' own spread is restored (arXiv:2305.08891, section 3.4).
        start, end: the shares of the steps between which guidance acts: step i of n, when start <= i / n < end.
            Outside, the scale is 1, which costs a single pass (Kynkaanniemi et al. 2024, arXiv:2404.07724).
    """

    scale: float = 1.0
    rescale: float = 0.0
    start: float = 0.0
    end: float = 1.0

    def scale_at(self, step: int, steps: int) -> float:
        """The guidance weight of the step with this index (0 is the first) of ``steps``."""
        share = step / steps
        return self.scale if self.start <= share < self.end else 1.0

    def rescales_at(self, step: int, steps: int) -> bool:
        """Whether the step's output is brought back to the spread that scale 1 gives."""
        return self.rescale > 0 and self.scale_at(step, steps) != 1

    def takes_uncond(self, weights: Sequence[float], step: int, steps: int) -> bool:
        """Whether the step needs the negative prompt's output, for prompts with these weights."""
        needed = needs_uncond(weights, self.scale_at(step, steps))
        return needed or (self.rescales_at(step, steps) and needs_uncond(weights, 1.0))


def needs_uncond(weights: Sequence[float], scale: float) -> bool:
    """Whether ``uncond`` has a share in ``combine``: not for one prompt of weight 1 at scale 1."""
    return abs(1 - scale * sum(weights)) > 1e-9


def combine(conds: Sequence[Tensor], weights: Sequence[float], uncond: Tensor | None, scale: float) -> Tensor:
    """``uncond + scale * sum(weight * (cond - uncond))``; several conds are prompts joined by AND.

    Args:
        conds: network outputs (B, C, H, W) of the prompts, with their ``weights``.
        uncond: output for the negative prompt; may be None where ``needs_uncond`` says so.
    Raises:
        ValueError: if ``uncond`` is None although it has a share.
    Source: Ho and Salimans 2022, arXiv:2207.12598, eq. 6; Liu et al. 2022, arXiv:2206.01714, eq. 11 (AND).
    """
    if not needs_uncond(weights, scale):
        return sum((cond * (scale * weight) for cond, weight in zip(conds[1:], weights[1:], strict=True)),
                   conds[0] * (scale * weights[0]))  # fmt: skip
    if uncond is None:
        raise ValueError(f"guidance with weights {list(weights)} at scale {scale} needs an uncond output")
    guided = uncond
    for cond, weight in zip(conds, weights, strict=True):
        guided = guided + (cond - uncond) * (scale * weight)
    return guided


def rescale(guided: Tensor, positive: Tensor, amount: float) -> Tensor:
    """Give ``guided`` back the spread of the unguided output, by ``amount`` (0..1), image by image.

    Source: Lin et al. 2023, arXiv:2305.08891, equations 15 and 16 (on the network's output).
    """
    axes = tuple(range(1, guided.ndim))
    factor = positive.std(axes, keepdim=True) / guided.std(axes, keepdim=True)
    return guided * (amount * factor + (1 - amount))
