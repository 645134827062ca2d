"""How far an order is, over all its requests: by the work of their steps, not by their number."""

from __future__ import annotations

import time
from collections.abc import Sequence

from backend.request import GenerationRequest


class Progress:
    """Counts batches and work (steps x pixels, in any unit).

    Args:
        requests: of the order; resolved, where there are several.
    """

    def __init__(self, requests: Sequence[GenerationRequest]) -> None:
        self._parts = [(request.batch_count, work_of(request)) for request in requests]
        self._number = 0  # of the part at hand
        self._done = 0.0  # work, of all batches that are over
        self._made = 0.0  # the share of it that was computed here
        self._started: float | None = None
        self.batch = 0  # batches that are over
        self.batches = sum(count for count, _ in self._parts)

    def begin(self, number: int) -> None:
        """A part of the order comes."""
        self._number = number

    def resolved(self, request: GenerationRequest) -> None:
        """What the part at hand has become with every field filled."""
        self._parts[self._number] = (request.batch_count, work_of(request))

    def step(self, share: float) -> tuple[float, float | None]:
        """Share of the whole order that is done, and seconds left; ``share``: of the batch at hand."""
        self.start_clock()
        whole = sum(count * work for count, work in self._parts)
        now = share * self._parts[self._number][1]
        done, made = self._done + now, self._made + now
        seconds = (time.perf_counter() - (self._started or 0.0)) / made * (whole - done) if made else None
        return min(1.0, done / whole), seconds

    def start_clock(self) -> None:
        """The first step is about to begin."""
        self._started = time.perf_counter() if self._started is None else self._started

    def batch_over(self) -> None:
        """A batch was made."""
        work = self._parts[self._number][1]
        self._done += work
        self._made += work
        self.batch += 1

    def batches_found(self, count: int) -> None:
        """So many batches were there already."""
        self._done += count * self._parts[self._number][1]
        self.batch += count


def work_of(request: GenerationRequest) -> float:
    """The work of one batch."""
    return (request.steps or 1) * (request.width or 1) * (request.height or 1) * request.batch_size
