"""The job store: every order in SQLite before it is accepted, so that no crash loses one.

Only the web process writes here, from several threads, through one connection behind one lock. Times are seconds
since 1970 (UTC). A file of another schema, a broken one and a second server on the same folder are refused with a
sentence.
"""

from __future__ import annotations

import json
import logging
import secrets
import sqlite3
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from backend.errors import BadRequest, NotFound, UserError, WorkerCrashed
from backend.events import Failed
from backend.records.database import Database
from backend.records.job_rows import Job, JobImage, JobState, image_of, stored_request
from backend.request import SCHEMA_VERSION, GenerationRequest, request_to_json

log = logging.getLogger(__name__)

MAX_PENDING = 1_000
MAX_KEY = 200
DATABASE_VERSION = 1

_SCHEMA = """
CREATE TABLE jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    key TEXT UNIQUE,
    state TEXT NOT NULL CHECK (state IN ('queued', 'running', 'done', 'failed', 'cancelled')),
    schema INTEGER NOT NULL,
    request TEXT NOT NULL,
    created REAL NOT NULL,
    started REAL,
    finished REAL,
    attempts INTEGER NOT NULL DEFAULT 0,
    cancel_requested INTEGER NOT NULL DEFAULT 0,
    error TEXT,
    notes TEXT NOT NULL
);
CREATE INDEX jobs_by_state ON jobs (state, number);
CREATE TABLE images (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    job TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    position INTEGER NOT NULL,
    path TEXT NOT NULL,
    seed INTEGER NOT NULL,
    width INTEGER NOT NULL,
    height INTEGER NOT NULL,
    parameters TEXT NOT NULL,
    created REAL NOT NULL,
    UNIQUE (job, position)
);
"""


OnChange = Callable[[Job | JobImage], None]


class JobStore:
    """Jobs and their pictures in one SQLite file (WAL, synchronous=FULL).

    Attributes:
        on_change: called with every job whose state has changed and every picture recorded, after it is on disk, in
            that order; from the thread that changed it, with the store locked: it may only hand the news on.
    Raises:
        DataUnusable: the file is not a job store, is newer than this Easel, or another Easel holds it.
        DiskFull: there is no room to write.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._version = int(clock() * 1000)  # starts above what a former process told, so that pages see a change
        tables = frozenset({"jobs", "images"})
        self.on_change: OnChange | None = None
        self._changes: list[str | JobImage] = []  # of the transaction at hand: ids of jobs, and pictures
        self._db = Database(path, schema=_SCHEMA, tables=tables, version=DATABASE_VERSION)

    @property
    def version(self) -> int:
        """A number that rises with each change; another value than before means: look again."""
        return self._version

    def close(self) -> None:
        """Give the file free; the store cannot be used afterwards."""
        self._db.close()

    def submit(self, request: GenerationRequest, key: str | None = None, *, notes: Sequence[str] = ()) -> Job:
        """Accept an order: it is on disk when this returns. The same ``key`` again gives the first job back.

        Raises:
            BadRequest: 1,000 jobs are waiting already, or the key is too long.
        """
        if key is not None and len(key) > MAX_KEY:
            raise BadRequest(f"The idempotency key has {len(key)} characters.", f"At most {MAX_KEY} are accepted.")
        with self._writing():
            known = self._db.row("SELECT * FROM jobs WHERE key = ?", key) if key else None
            if known is not None:
                return self._job(known)
            waiting = self._count("queued")
            if waiting >= MAX_PENDING:
                raise BadRequest(f"{waiting} jobs are waiting already.", "Wait for some, or cancel some.")
            row = self._db.row(
                "INSERT INTO jobs (id, key, state, schema, request, created, notes) "
                "VALUES (?, ?, 'queued', ?, ?, ?, ?) RETURNING *",
                secrets.token_hex(8), key or None, SCHEMA_VERSION, json.dumps(request_to_json(request)),
                self._clock(), json.dumps(list(notes)),
            )  # fmt: skip
            assert row is not None  # noqa: S101 - an INSERT ... RETURNING gives its row
            self._changes.append(row["id"])
            return self._job(row)

    def by_key(self, key: str) -> Job | None:
        """The job that was accepted under this idempotency key, if any."""
        with self._db.reading():
            row = self._db.row("SELECT * FROM jobs WHERE key = ?", key)
            return None if row is None else self._job(row)

    def claim(self, job_id: str | None = None) -> Job | None:
        """Take the oldest waiting job for the engine, or this one; ``None`` when it, or any, does not wait.

        One statement decides, so two callers never get the same job. A row whose request this version cannot read
        fails with a sentence and the next is taken.
        """
        while True:
            with self._writing():
                row = self._db.row(
                    "UPDATE jobs SET state = 'running', started = ?, attempts = attempts + 1 WHERE number = "
                    "(SELECT MIN(number) FROM jobs WHERE state = 'queued' AND id = COALESCE(?, id)) RETURNING *",
                    self._clock(), job_id,
                )  # fmt: skip
                if row is None:
                    return None
                _, problem = stored_request(row)
                if problem is None:
                    self._changes.append(row["id"])
                    return self._job(row)
                self._end(row["id"], "failed", problem)

    def finish(self, job_id: str, *, attempt: int | None = None) -> bool:
        """The engine is done. False, and nothing changes, when the job no longer runs or runs in another attempt."""
        return self._settle(job_id, "done", None, attempt)

    def fail(self, job_id: str, error: UserError | Failed, *, attempt: int | None = None) -> bool:
        """The engine gave up; code ``cancelled`` makes the job cancelled. Late calls change nothing, as in finish."""
        if error.code == "cancelled":
            return self._settle(job_id, "cancelled", None, attempt)
        return self._settle(job_id, "failed", _error_json(error), attempt)

    def cancel(self, job_id: str) -> Job:
        """Stop a job: a waiting one at once, a running one by a flag that the dispatcher passes to the engine."""
        with self._writing():
            self._get(job_id)
            ended = self._db.change(
                "UPDATE jobs SET state = 'cancelled', finished = ? WHERE id = ? AND state = 'queued'",
                self._clock(), job_id,
            )  # fmt: skip
            self._changes += [job_id] if ended else []
            self._db.change("UPDATE jobs SET cancel_requested = 1 WHERE id = ? AND state = 'running'", job_id)
            return self._get(job_id)

    def requeue_running(self, max_attempts: int = 2) -> Sequence[Job]:
        """After a crash of the engine or of this process: running jobs wait again, at their old place.

        One that was tried ``max_attempts`` times fails with ``worker_crashed``; one the user had stopped is
        cancelled. Returns the jobs touched, as they are now.
        """
        with self._writing():
            rows = self._db.rows("SELECT id, attempts, cancel_requested FROM jobs WHERE state = 'running'")
            for row in rows:
                if row["cancel_requested"]:
                    self._end(row["id"], "cancelled", None)
                elif row["attempts"] >= max_attempts:
                    what = f"The engine process died {row['attempts']} times while it ran this job."
                    todo = "Try a smaller size or batch, or another checkpoint; the log of the engine has the cause."
                    self._end(row["id"], "failed", WorkerCrashed(what, todo).to_json())
                else:
                    self._db.change("UPDATE jobs SET state = 'queued', started = NULL WHERE id = ?", row["id"])
                    self._changes.append(row["id"])
            return [self._get(row["id"]) for row in rows]

    def add_note(self, job_id: str, text: str) -> None:
        """Keep something the user should know with the job; the same words twice are kept once."""
        with self._writing():
            notes = self._get(job_id).notes
            if text not in notes:
                self._db.change("UPDATE jobs SET notes = ? WHERE id = ?", json.dumps([*notes, text]), job_id)

    def add_image(
        self, job_id: str, *, index: int, path: str, seed: int, width: int, height: int, parameters: str
    ) -> JobImage:
        """Record a saved picture. When a job runs again its picture of the same index takes the place and the id."""
        with self._writing():
            self._get(job_id)
            row = self._db.row(
                "INSERT INTO images (id, job, position, path, seed, width, height, parameters, created) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (job, position) DO UPDATE SET path = excluded.path, "
                "seed = excluded.seed, width = excluded.width, height = excluded.height, "
                "parameters = excluded.parameters, created = excluded.created RETURNING *",
                secrets.token_hex(16), job_id, index, path, seed, width, height, parameters, self._clock(),
            )  # fmt: skip
            assert row is not None  # noqa: S101 - an INSERT ... RETURNING gives its row
            self._changes.append(image_of(row))
            return image_of(row)

    def get(self, job_id: str) -> Job:
        """One job; raises ``NotFound``."""
        with self._db.reading():
            return self._get(job_id)

    def list(self, limit: int = 30, *, states: Collection[JobState] = (), before: int | None = None) -> Sequence[Job]:
        """Jobs, newest first; of these states only, if given; older than the job of that ``number``, if given."""
        marks = ", ".join("?" * len(states))
        where = f"state IN ({marks}) AND " if states else ""
        with self._db.reading():
            rows = self._db.rows(
                f"SELECT * FROM jobs WHERE {where} number < ? ORDER BY number DESC LIMIT ?",  # noqa: S608 - marks only
                *states, 2**62 if before is None else before, limit,
            )  # fmt: skip
            return [self._job(row) for row in rows]

    def queue(self) -> Sequence[str]:
        """The ids of the waiting jobs, the next first."""
        with self._db.reading():
            rows = self._db.rows("SELECT id FROM jobs WHERE state = 'queued' ORDER BY number")
            return [row["id"] for row in rows]

    def waiting(self) -> Sequence[Job]:
        """The waiting jobs, the oldest first."""
        with self._db.reading():
            rows = self._db.rows("SELECT * FROM jobs WHERE state = 'queued' ORDER BY number")
            return [self._job(row) for row in rows]

    def requests(self) -> Iterator[str]:
        """The requests of all jobs, as the JSON that is stored."""
        with self._db.reading():
            rows = self._db.rows("SELECT request FROM jobs")
        return (row["request"] for row in rows)

    def images(self, job_id: str) -> tuple[JobImage, ...]:
        """The pictures of a job by index; raises ``NotFound``."""
        return self.get(job_id).images

    def image(self, image_id: str) -> JobImage:
        """One picture by its opaque id; raises ``NotFound``."""
        with self._db.reading():
            row = self._db.row("SELECT * FROM images WHERE id = ?", image_id)
        if row is None:
            raise NotFound("This picture is not in the history (any more).", "Reload the page.")
        return image_of(row)

    def pictures(self, limit: int, *, before: str | None = None) -> Sequence[JobImage]:
        """Pictures of all jobs, newest first; those recorded before the picture of that id, if given.

        Raises:
            NotFound: there is no picture of that id.
        """
        with self._db.reading():
            found = None if before is None else self._db.row("SELECT number FROM images WHERE id = ?", before)
            if before is not None and found is None:
                raise NotFound("This picture is not in the history (any more).", "Start from the newest.")
            number = 2**62 if found is None else found["number"]
            rows = self._db.rows(
                "SELECT * FROM images WHERE number < ? ORDER BY number DESC LIMIT ?", number, limit
            )  # fmt: skip
        return [image_of(row) for row in rows]

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with self._db.reading():  # locked until the news is told: it arrives in the order of the changes
            self._changes.clear()
            with self._db.writing():
                yield
                self._version += 1
            if self.on_change is not None:
                self._tell(self.on_change)

    def _tell(self, on_change: OnChange) -> None:
        for changed in tuple(self._changes):
            try:
                on_change(changed if isinstance(changed, JobImage) else self._get(changed))
            except Exception:  # what is on disk is done, whatever a listener makes of it
                log.exception("a listener of the job store failed")

    def _settle(self, job_id: str, state: JobState, error: dict[str, str | None] | None, attempt: int | None) -> bool:
        with self._writing():
            job = self._get(job_id)
            if job.state != "running" or attempt not in {None, job.attempts}:
                return False
            self._end(job_id, state, error)
            return True

    def _end(self, job_id: str, state: JobState, error: dict[str, str | None] | None) -> None:
        self._db.change(
            "UPDATE jobs SET state = ?, finished = ?, error = ? WHERE id = ?",
            state, self._clock(), None if error is None else json.dumps(error), job_id,
        )  # fmt: skip
        self._changes.append(job_id)

    def _count(self, state: JobState) -> int:
        row = self._db.row("SELECT COUNT(*) FROM jobs WHERE state = ?", state)
        return 0 if row is None else row[0]

    def _get(self, job_id: str) -> Job:
        row = self._db.row("SELECT * FROM jobs WHERE id = ?", job_id)
        if row is None:
            raise NotFound(f"Job {job_id[:40]!r} is not in the history (any more).", "Reload the page.")
        return self._job(row)

    def _job(self, row: sqlite3.Row) -> Job:
        rows = self._db.rows("SELECT * FROM images WHERE job = ? ORDER BY position", row["id"])
        error = None if row["error"] is None else json.loads(row["error"])
        request, problem = stored_request(row)
        return Job(
            id=row["id"],
            number=row["number"],
            state=row["state"],
            request=request,
            created=row["created"],
            started=row["started"],
            finished=row["finished"],
            attempts=row["attempts"],
            cancel_requested=bool(row["cancel_requested"]),
            error=error or problem,
            notes=tuple(json.loads(row["notes"])),
            images=tuple(image_of(each) for each in rows),
        )


def _error_json(error: UserError | Failed) -> dict[str, str | None]:
    return {"code": error.code, "what": error.what, "todo": error.todo, "field": error.field}
