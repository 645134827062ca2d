"""The order of the queue as the user wants it: kept on disk, so that it outlives the process."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

SCHEMA = """
CREATE TABLE IF NOT EXISTS places (job TEXT PRIMARY KEY, priority INTEGER NOT NULL DEFAULT 0, place REAL NOT NULL);
CREATE TABLE IF NOT EXISTS switches (name TEXT PRIMARY KEY, is_on INTEGER NOT NULL);
"""


class Order:
    """Places and priorities of waiting jobs, and whether the queue is paused. Usable from any thread.

    A higher priority comes first, among equals the lower place; a job that was never seen goes to the end.
    """

    def __init__(self, file: Path) -> None:
        self._lock = threading.Lock()
        self._db = sqlite3.connect(file, check_same_thread=False, isolation_level=None)
        self._db.executescript(SCHEMA)

    @property
    def paused(self) -> bool:
        """Whether no job is to be started."""
        with self._lock:
            row = self._db.execute("SELECT is_on FROM switches WHERE name = 'paused'").fetchone()
        return bool(row and row[0])

    def pause(self, on: bool) -> None:
        """Start no job any more, or go on."""
        with self._writing():
            self._db.execute("INSERT OR REPLACE INTO switches VALUES ('paused', ?)", [int(on)])

    def sorted(self, jobs: Sequence[str]) -> list[str]:
        """The waiting jobs, given in the order of arrival, in the user's."""
        with self._writing():
            for job in jobs:
                self._see(job)
            rows = self._db.execute("SELECT job, priority, place FROM places").fetchall()
        ranks = {job: (-priority, place) for job, priority, place in rows}
        return sorted(jobs, key=lambda job: ranks[job])

    def priority(self, job: str) -> int:
        """A job's priority, 0 unless someone has said otherwise."""
        with self._lock:
            row = self._db.execute("SELECT priority FROM places WHERE job = ?", [job]).fetchone()
        return row[0] if row else 0

    def set_priority(self, job: str, priority: int) -> None:
        """Another priority; the place stays."""
        with self._writing():
            self._see(job)
            self._db.execute("UPDATE places SET priority = ? WHERE job = ?", [priority, job])

    def put_before(self, job: str, other: str | None, jobs: Sequence[str]) -> None:
        """Move a job right before another of ``jobs``, with its priority; None: before all of them."""
        queue = [each for each in self.sorted(jobs) if each != job]
        at = queue.index(other) if other is not None else 0
        queue.insert(at, job)
        like = other if other is not None else (queue[1] if len(queue) > 1 else job)
        priority = self.priority(like)
        with self._writing():
            for place, each in enumerate(queue):
                self._db.execute("UPDATE places SET place = ? WHERE job = ?", [place, each])
            self._db.execute("UPDATE places SET priority = ? WHERE job = ?", [priority, job])

    def forget(self, job: str) -> None:
        """It waits no more."""
        with self._writing():
            self._db.execute("DELETE FROM places WHERE job = ?", [job])

    def close(self) -> None:
        """Give the file free."""
        with self._lock:
            self._db.close()

    def _see(self, job: str) -> None:
        self._db.execute(
            "INSERT OR IGNORE INTO places (job, place) SELECT ?, COALESCE(MAX(place), 0) + 1 FROM places", [job]
        )

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")
