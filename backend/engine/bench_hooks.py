"""What the hook system costs while no extension is asked for anything: ``easel bench --against no-extensions``.

The same job in two engines of one process, in turns: one with every extension that is installed, one with none.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, replace
from itertools import pairwise

from backend.engine.engine import Engine
from backend.engine.stopwatch import synchronise
from backend.events import JobEvent, Step
from backend.request import GenerationRequest
from backend.settings import Settings

STEPS = 12


@dataclass(frozen=True)
class HookFigures:
    """A step with and without extensions, in seconds.

    Attributes:
        extensions: that are on, and asked for nothing.
        with_seconds, without_seconds: medians over all steps but each job's first.
        ratio: of these medians; 1 is no cost.
        noise: how far the medians of the first and the second jobs without extensions lie apart, as a share: what the
            same figure shows where there is no difference. Believe nothing smaller.
        same_bytes: whether both made the same picture.
    """

    checkpoint: str
    extensions: int
    rounds: int
    with_seconds: float
    without_seconds: float
    ratio: float
    noise: float
    same_bytes: bool


def compare_hooks(settings: Settings, request: GenerationRequest, *, rounds: int) -> HookFigures:
    """Run ``rounds`` of four jobs in turns, none with extensions, with, with, without."""
    engines = {True: Engine(settings), False: Engine(settings.model_copy(update={"no_extensions": True}))}
    request = replace(request, steps=STEPS, seed=1)
    pictures = {on: _job(engine, request)[1] for on, engine in engines.items()}  # loads, and warms up
    told: dict[str, list[float]] = {"with": [], "first": [], "second": []}
    for _ in range(rounds):
        for name, on in (("first", False), ("with", True), ("with", True), ("second", False)):
            told[name] += _job(engines[on], request)[0]
    with_, without = statistics.median(told["with"]), statistics.median(told["first"] + told["second"])
    on = [row for row in engines[True].extensions.plugins.extensions.values() if row.status == "on"]
    return HookFigures(
        checkpoint=engines[True].catalog.checkpoint(request.checkpoint).name,
        extensions=len(on),
        rounds=rounds,
        with_seconds=with_,
        without_seconds=without,
        ratio=with_ / without,
        noise=abs(statistics.median(told["first"]) / statistics.median(told["second"]) - 1),
        same_bytes=pictures[True] == pictures[False],
    )


def _job(engine: Engine, request: GenerationRequest) -> tuple[list[float], bytes]:
    """Seconds of each step of a job but the first, and its picture."""
    marks: list[float] = []

    def tell(event: JobEvent) -> None:
        if isinstance(event, Step):
            synchronise(engine.policy.device)
            marks.append(time.perf_counter())

    result = engine.generate(request, tell)
    return [after - before for before, after in pairwise(marks)], result.pictures[0].image.tobytes()
