"""What steers the network: features of one prompt, their change over the steps, and several prompts joined by AND."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Conditioning:
    """One prompt as the network takes it.

    Args:
        context: (1 or B, T, D) token features.
        pooled: (1 or B, P) vector (SDXL: text and size embedding), None for networks without one.
    """

    context: Tensor
    pooled: Tensor | None

    @property
    def tokens(self) -> int:
        """T, the length of the context."""
        return self.context.shape[1]


@dataclass(frozen=True, eq=False)
class ScheduledConditioning:
    """A prompt that may change over the steps (``[fox:cat:5]``, ``[a|b]``), with its weight among AND-joined prompts.

    Args:
        segments: (until_step, conditioning), until_step rising; a segment holds for the step indices below its
            until_step (``[fox:cat:5]`` shows the fox in the steps 0 to 4), the last one also for all later steps.
        weight: of this prompt in ``uncond + scale * sum(weight * (cond - uncond))``.
    """

    segments: tuple[tuple[int, Conditioning], ...]
    weight: float = 1.0

    def __post_init__(self) -> None:
        ends = [until for until, _ in self.segments]
        if not ends or ends != sorted(set(ends)):
            raise ValueError(f"segments must be there and rise in until_step, got {ends}")

    @classmethod
    def constant(cls, conditioning: Conditioning, weight: float = 1.0) -> ScheduledConditioning:
        """The same conditioning in every step."""
        return cls(((1, conditioning),), weight)

    def at(self, step: int) -> Conditioning:
        """The conditioning of the step with this index (0 is the first)."""
        return next((c for until, c in self.segments if step < until), self.segments[-1][1])


Composed = Sequence[ScheduledConditioning]  # the AND-joined parts of one prompt; usually one
