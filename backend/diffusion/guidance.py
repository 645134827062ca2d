"""Guidance on network outputs: which branches a step evaluates, and how their outputs become one.

A branch is one evaluation of the network for one prompt in one ``Way``. What a guidance adds is a way more and a term
more in ``guide``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Way:
    """How a branch is evaluated.

    Args:
        name: what patches and ``guide`` know its outputs by.
        is_negative: with the negative prompt, once; else with each of the AND-joined prompts.
        is_blind: the extra input channels (the picture that an instruct-pix2pix model changes) are zero.
        skip_blocks: blocks of the network that are left out; branches that differ in it cannot share a call.
    """

    name: str
    is_negative: bool = False
    is_blind: bool = False
    skip_blocks: frozenset[int] = frozenset()


COND = Way("cond")
UNCOND = Way("uncond", is_negative=True)
BLIND = Way("blind", is_negative=True, is_blind=True)


@dataclass(frozen=True)
class SkipLayers:
    """Skip-layer guidance: away from what the network gives without some of its blocks (SD3.5).

    Args:
        layers: indices of the blocks that are left out.
        scale: 0 is off.
        start, end: step i of n has it when start < i / n < end, as in the reference: never the very first step.
    Source: Stability-AI/sd3.5 fbf8f48, sd3_impls.py, SkipLayerCFGDenoiser.
    """

    layers: frozenset[int]
    scale: float
    start: float = 0.01
    end: float = 0.2

    def acts_at(self, step: int, steps: int) -> bool:
        """Whether the step with this index (0 is the first) of ``steps`` has it."""
        return self.scale != 0 and bool(self.layers) and self.start * steps < step < self.end * steps

    @property
    def way(self) -> Way:
        """The branches that it adds: each prompt once more."""
        return Way("skipped", skip_blocks=self.layers)


@dataclass(frozen=True)
class Guidance:
    """How strongly the prompt steers, and when.

    Args:
        scale: classifier-free guidance weight; 1 is off.
        rescale: 0..1, how much of the outputs' own spread is restored (arXiv:2305.08891, section 3.4).
        start, end: the shares of the steps between which guidance acts: step i of n, when start <= i / n < end.
            Outside, both scales are 1, which costs a single pass (Kynkaanniemi et al. 2024, arXiv:2404.07724).
        image_scale: weight of the picture that the network reads in its extra channels (instruct-pix2pix); 1 is off.
        skip: skip-layer guidance.
    """

    scale: float = 1.0
    rescale: float = 0.0
    start: float = 0.0
    end: float = 1.0
    image_scale: float = 1.0
    skip: SkipLayers | None = None

    def scale_at(self, step: int, steps: int) -> float:
        """The guidance weight of the step with this index (0 is the first) of ``steps``."""
        return self.scale if self._acts_at(step, steps) else 1.0

    def image_scale_at(self, step: int, steps: int) -> float:
        """As ``scale_at``, of the picture's weight."""
        return self.image_scale if self._acts_at(step, steps) else 1.0

    def rescales_at(self, step: int, steps: int) -> bool:
        """Whether the step's output is brought back to the spread that scale 1 gives."""
        return self.rescale > 0 and (self.scale_at(step, steps) != 1 or self.image_scale_at(step, steps) != 1)

    def ways(self, weights: Sequence[float], step: int, steps: int) -> tuple[Way, ...]:
        """The ways in which the step evaluates its prompts, for AND-joined prompts with these weights."""
        is_blind = self.image_scale_at(step, steps) != 1
        is_guided = is_blind or needs_uncond(weights, self.scale_at(step, steps))
        if self.rescales_at(step, steps):
            is_guided = is_guided or needs_uncond(weights, 1.0)
        is_skipped = self.skip is not None and self.skip.acts_at(step, steps)
        wanted = ((COND, True), (UNCOND, is_guided), (BLIND, is_blind), (self.skip and self.skip.way, is_skipped))
        return tuple(way for way, is_wanted in wanted if way is not None and is_wanted)

    def needs_negative(self, weights: Sequence[float]) -> bool:
        """Whether any step may need the negative prompt; scale 1 counts too (interval, rescale)."""
        scales = (self.scale, 1.0)
        return self.image_scale != 1 or any(needs_uncond(weights, scale) for scale in scales)

    def _acts_at(self, step: int, steps: int) -> bool:
        return self.start <= step / steps < self.end


def guide(
    outputs: Mapping[str, Sequence[Tensor]], weights: Sequence[float], guidance: Guidance, step: int, steps: int
) -> Tensor:
    """One network output (B, C, H, W) from those of a step's branches.

    Args:
        outputs: by name of the way, those of the AND-joined prompts (with their ``weights``) or the negative prompt's.
    Source: SkipLayers; for the picture's weight Brooks et al. 2023, arXiv:2211.09800, equation 3.
    """
    conds = outputs["cond"]
    uncond = next(iter(outputs.get("uncond", ())), None)
    guided = combine(conds, weights, uncond, guidance.scale_at(step, steps))
    if "blind" in outputs:
        (blind,) = outputs["blind"]
        guided = guided + (outputs["uncond"][0] - blind) * (guidance.image_scale_at(step, steps) - 1)
    if guidance.rescales_at(step, steps):
        guided = rescale(guided, combine(conds, weights, uncond, 1.0), guidance.rescale)
    if guidance.skip is not None and "skipped" in outputs:
        for cond, skipped, weight in zip(conds, outputs["skipped"], weights, strict=True):
            guided = guided + (cond - skipped) * (guidance.skip.scale * weight)
    return guided


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
