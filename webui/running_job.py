"""The job at hand as the dispatcher watches it: what the engine tells of it, and whose fault its death is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from backend.errors import UserError, WorkerCrashed
from backend.events import Done, Event, Failed, HookRuns, ImageSaved, Note, Planned, Step
from backend.plugins import ExtensionFailed
from backend.records.job_rows import Job
from backend.records.jobs import JobStore
from webui.live import Live

MAX_ATTEMPTS = 2


@dataclass
class RunningJob:
    """The job at hand: when it last gave a sign, and its slowest step so far."""

    job: Job
    heard: float
    stepped: float | None = None
    slowest: float = 0.0


def heed(running: RunningJob, event: Event, store: JobStore, live: Live) -> Callable[[], bool] | None:
    """Write down what the engine told of the job; if it is its end, returns what writes that."""
    job = running.job
    match event:
        case Planned():
            if event.plan.seconds is not None and event.plan.model_calls:
                running.slowest = event.plan.seconds / event.plan.model_calls
            live.planned(job.id, event.plan)
        case Step():
            if running.stepped is not None and event.step > 1:
                running.slowest = max(running.slowest, running.heard - running.stepped)
            running.stepped = running.heard
            live.step(event)
        case Note():
            store.add_note(job.id, event.text)
        case ImageSaved():
            live.picture_made()
            store.add_image(
                job.id,
                index=event.index,
                path=event.path,
                seed=event.seed,
                width=event.width,
                height=event.height,
                parameters=event.parameters,
            )
        case Done():
            return partial(store.finish, job.id, attempt=job.attempts)
        case Failed():
            return partial(store.fail, job.id, event, attempt=job.attempts)
        case _:
            pass
    return None


def fault_of(running: RunningJob, hook: HookRuns | None, cause: str) -> UserError | None:
    """What the job at hand fails with when the engine died of ``cause``, in ``hook``; None: it is tried again."""
    if hook is not None and not hook.observes:  # it would die in it again; an observer is left out from now on
        return ExtensionFailed(
            f"The extension {hook.owner} did not return from {hook.hook}, and the engine process ended with it "
            f"({cause}).",
            "Switch it off for this picture, or in the Extensions tab; or look for a newer version.",
            field="extensions",
        )
    if running.job.attempts < MAX_ATTEMPTS:
        return None
    return WorkerCrashed(
        f"The engine process died {running.job.attempts} times while it ran this job ({cause}).",
        "Try a smaller size or batch, or another checkpoint; easel.log has the details.",
    )
