"""What a run cost: network operations done and skipped, counted and not estimated, and the seconds they took."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from backend.api import BlockState, Call


@dataclass
class Tally:
    """Counts operations (of matrix products, convolutions and attention) over the network calls of a job.

    A call of each composition is counted by torch as it runs whole, which changes no bit; others of it cost the same.
    """

    done: float = 0.0
    whole: float = 0.0  # what the same calls cost without reuse
    seconds: float = 0.0  # from the first call's begin to the last one's end
    _began: float | None = None
    _costs: dict[tuple[object, ...], tuple[float, float]] = field(default_factory=dict)  # shallow, deep
    _counter: FlopCounterMode | None = None
    _deep: float = 0.0
    _is_reused: bool = False

    @property
    def skipped(self) -> float:
        """The share of the operations that was not done, 0 to 1."""
        return 1 - self.done / self.whole if self.whole else 0.0

    def around(self, x: Tensor, call: Call, run: Callable[[Tensor], Tensor]) -> Tensor:
        """A network call, with its cost noted."""
        self._began = time.perf_counter() if self._began is None else self._began
        kind = (call.branches, call.text_tokens, x.shape)
        self._is_reused, self._deep = False, 0.0
        cost = self._costs.get(kind)
        if cost is not None:
            out = run(x)
        else:
            with FlopCounterMode(display=False) as counter:
                self._counter = counter
                out = run(x)
                self._counter = None
            total = counter.get_total_flops()
            if self._is_reused:
                cost = self._guessed(total)
            else:
                cost = self._costs[kind] = total - self._deep, self._deep
        shallow, deep = cost
        self.done += shallow + (0.0 if self._is_reused else deep)
        self.whole += shallow + deep
        self.seconds = time.perf_counter() - self._began
        return out

    def deep(self, state: BlockState, run: Callable[[BlockState], BlockState]) -> BlockState:
        """A block of the deep part."""
        if self._counter is None:
            return run(state)
        before = self._counter.get_total_flops()
        after = run(state)
        self._deep += self._counter.get_total_flops() - before
        return after

    def reused(self) -> None:
        """The call at hand takes the deep part from what is kept."""
        self._is_reused = True

    def _guessed(self, shallow: float) -> tuple[float, float]:
        """Of a composition that never ran whole, such as the prompt alone after the guidance's end: by its shares."""
        known = [(deep / base) for base, deep in self._costs.values() if base]
        return shallow, shallow * (known[0] if known else 0.0)
