"""The job at hand as the dispatcher watches it, and whose fault it is when the engine dies of it."""

from __future__ import annotations

from dataclasses import dataclass

from backend.errors import UserError, WorkerCrashed
from backend.events import HookRuns
from backend.plugins import ExtensionFailed
from backend.records.job_rows import Job

MAX_ATTEMPTS = 2


@dataclass
class RunningJob:
    """The job at hand: when it last gave a sign, and its slowest step so far."""

    job: Job
    heard: float
    stepped: float | None = None
    slowest: float = 0.0


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
