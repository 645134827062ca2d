"""What is known of the engine and of running jobs beyond the job store: in memory, gone with the process.

Written by the dispatcher's thread, read by request handlers.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from backend.events import Plan, Ready, Residents, Step

EngineState = Literal["starting", "ready", "down"]
KEPT_PLANS = 60


@dataclass(frozen=True, kw_only=True)
class EngineView:
    """The engine as the page shows it; ``trouble`` is a sentence while something is wrong."""

    state: EngineState = "starting"
    device: str = ""
    dtype: str = ""
    residents: tuple[str, ...] = ()
    trouble: str = ""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far the running job is; ``preview`` is a data URI."""

    step: int
    steps: int
    batch: int
    batches: int
    share: float | None = None  # of the whole job
    seconds_left: float | None = None
    preview: str | None = None


class Live:
    """The engine's state, the running job's progress and the plans told, with a number that rises at each change."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._version = 0
        self._engine = EngineView()
        self._progress: tuple[str, Progress] | None = None
        self._plans: dict[str, str] = {}
        self._fares: tuple[tuple[dict[str, Any], ...], int] = ((), 0)  # extensions' rows, pictures since the start

    @property
    def version(self) -> int:
        """Rises with each change."""
        return self._version

    @property
    def engine(self) -> EngineView:
        """The engine now."""
        return self._engine

    def progress(self, job_id: str) -> Progress | None:
        """How far this job is, if it is the running one and has begun a step."""
        current = self._progress
        return current[1] if current is not None and current[0] == job_id else None

    def plan(self, job_id: str) -> str | None:
        """What the engine told before it ran this job."""
        return self._plans.get(job_id)

    def to_json(self) -> dict[str, Any]:
        """All of it, for another process image that goes on with the engine."""
        progress = None if self._progress is None else [self._progress[0], asdict(self._progress[1])]
        return {"engine": asdict(self._engine), "progress": progress, "plans": self._plans, "fares": self._fares}

    def take(self, told: Mapping[str, Any]) -> None:
        """Go on from what ``to_json`` of a former one told."""
        with self._lock:
            self._engine = EngineView(**{**told["engine"], "residents": tuple(told["engine"]["residents"])})
            self._progress = told["progress"] and (told["progress"][0], Progress(**told["progress"][1]))
            self._plans = dict(told["plans"])
            self._fares = (tuple(told["fares"][0]), told["fares"][1])
            self._version += 1

    @property
    def extensions(self) -> tuple[tuple[dict[str, Any], ...], int]:
        """How the extensions fare as the engine told last, and how many pictures it had made since its start."""
        return self._fares

    def extensions_fare(self, rows: Sequence[dict[str, Any]]) -> None:
        """The engine told of its extensions, after a job."""
        self._fares = (tuple(rows), self._fares[1])

    def picture_made(self) -> None:
        """The engine saved a picture."""
        self._fares = (self._fares[0], self._fares[1] + 1)

    def engine_starting(self) -> None:
        """A process was started and has not spoken yet."""
        self._set_engine(replace(self._engine, state="starting", residents=()))

    def engine_ready(self, event: Ready) -> None:
        """It is up."""
        self._fares = (tuple(event.registry.get("extensions", ())), 0)
        self._set_engine(EngineView(state="ready", device=event.device, dtype=event.dtype))

    def engine_down(self, trouble: str) -> None:
        """It ended and will be started again."""
        self._set_engine(replace(self._engine, state="down", residents=(), trouble=trouble))

    def trouble(self, sentence: str) -> None:
        """Something that keeps jobs from running; empty: over."""
        if sentence != self._engine.trouble:
            self._set_engine(replace(self._engine, trouble=sentence))

    def residents(self, event: Residents) -> None:
        """Other parts are in memory now."""
        self._set_engine(replace(self._engine, residents=event.parts))

    def step(self, event: Step) -> None:
        """A step is done; a step without a preview keeps the last one."""
        before = self.progress(event.job)
        preview = before.preview if before is not None else None
        if event.preview is not None:
            preview = f"data:image/jpeg;base64,{event.preview}"
        progress = Progress(
            step=event.step,
            steps=event.steps,
            batch=event.batch,
            batches=event.batches,
            share=event.share,
            seconds_left=event.seconds_left,
            preview=preview,
        )
        with self._lock:
            self._progress = (event.job, progress)
            self._version += 1

    def planned(self, job_id: str, plan: Plan) -> None:
        """The engine told what it is going to do."""
        with self._lock:
            self._plans.pop(job_id, None)
            self._plans[job_id] = plan_text(plan)
            while len(self._plans) > KEPT_PLANS:
                self._plans.pop(next(iter(self._plans)))
            self._version += 1

    def over(self) -> None:
        """No job runs any more."""
        with self._lock:
            self._progress = None
            self._version += 1

    def _set_engine(self, view: EngineView) -> None:
        with self._lock:
            self._engine = view
            self._version += 1


def plan_text(plan: Plan) -> str:
    """A plan in one or two sentences."""
    time = "" if plan.seconds is None else f", about {_duration(plan.seconds)}"
    calls = f"{plan.model_calls} model call{'' if plan.model_calls == 1 else 's'}"
    arithmetic = "" if plan.dtype in plan.device else f" in {plan.dtype}"  # a device's words may hold it already
    words = [f"{calls}{time} on {plan.device}{arithmetic}."]
    if plan.needs_bytes:
        budget = f" of {_size(plan.budget_bytes)}" if plan.budget_bytes else ""
        words.append(f"Needs {_size(plan.needs_bytes)}{budget}.")
    if plan.loads:
        words.append(f"Loads {', '.join(plan.loads)}.")
    if plan.leaves:
        words.append(f"{', '.join(plan.leaves)} leaves memory.")
    return " ".join(words)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min"


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{max(1, round(count / 2**20))} MiB"
