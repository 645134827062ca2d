"""What the job store gives out: jobs and pictures as they stood when they were read."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass
from typing import Literal

from backend.errors import BadRequest
from backend.request import GenerationRequest, parse_request

JobState = Literal["queued", "running", "done", "failed", "cancelled"]
FINISHED: tuple[JobState, ...] = ("done", "failed", "cancelled")


@dataclass(frozen=True, kw_only=True)
class JobImage:
    """A saved picture of a job; ``id`` is what the outside asks for, ``path`` never leaves the server."""

    id: str
    job: str
    index: int  # 0 .. batch_size * batch_count - 1
    path: str
    seed: int
    width: int
    height: int
    parameters: str
    created: float


@dataclass(frozen=True, kw_only=True)
class Job:
    """One order as it stood when it was read; ``error`` has the keys of ``UserError.to_json``."""

    id: str
    number: int  # rises with each job: the order of the queue
    state: JobState
    request: GenerationRequest
    created: float
    started: float | None
    finished: float | None
    attempts: int
    cancel_requested: bool
    error: dict[str, str | None] | None
    notes: tuple[str, ...]
    images: tuple[JobImage, ...]

    @property
    def is_finished(self) -> bool:
        """Whether nothing will happen to it any more."""
        return self.state in FINISHED


def stored_request(row: sqlite3.Row) -> tuple[GenerationRequest, dict[str, str | None] | None]:
    """The request of a row; or an empty one and what is wrong, when another version wrote it."""
    try:
        return parse_request(json.loads(row["request"])), None
    except (BadRequest, TypeError, ValueError) as error:
        what = f"The stored request (schema {row['schema']}) cannot be read by this version: {error}"
        return GenerationRequest(), BadRequest(what, "Send it again.").to_json()


def image_of(row: sqlite3.Row) -> JobImage:
    """A picture from its row."""
    return JobImage(
        id=row["id"],
        job=row["job"],
        index=row["position"],
        path=row["path"],
        seed=row["seed"],
        width=row["width"],
        height=row["height"],
        parameters=row["parameters"],
        created=row["created"],
    )
