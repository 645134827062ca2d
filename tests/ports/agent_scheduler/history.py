"""When jobs were enqueued and started, every attempt of them: kept on disk, so that it outlives the process."""

from __future__ import annotations

import sqlite3
import threading
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Event = Literal["enqueued", "started"]
KEPT = 20_000  # events; the oldest go first
SCHEMA = """
CREATE TABLE IF NOT EXISTS events (job TEXT NOT NULL, event TEXT NOT NULL, at REAL NOT NULL);
CREATE INDEX IF NOT EXISTS events_of ON events (job);
"""


@dataclass(frozen=True)
class Times:
    """What one job went through, in seconds since 1970; more than one of each where an attempt was cut off."""

    enqueued: list[float] = field(default_factory=list)
    started: list[float] = field(default_factory=list)

    @property
    def waited(self) -> float | None:
        """Seconds from the first to the first; None: it was never started, or nobody saw it come."""
        return max(0.0, self.started[0] - self.enqueued[0]) if self.enqueued and self.started else None


class History:
    """The times of the latest jobs. Usable from any thread."""

    def __init__(self, file: Path) -> None:
        self._lock = threading.Lock()
        self._db = sqlite3.connect(file, check_same_thread=False, isolation_level=None)
        self._db.executescript(SCHEMA)

    def add(self, job: str, event: Event, at: float) -> None:
        """It happened."""
        with self._lock:
            self._db.execute("INSERT INTO events VALUES (?, ?, ?)", [job, event, at])
            self._db.execute("DELETE FROM events WHERE rowid <= (SELECT MAX(rowid) FROM events) - ?", [KEPT])

    def of(self, jobs: Collection[str]) -> Mapping[str, Times]:
        """The times of these jobs, those of which nothing is known included."""
        marks = ", ".join("?" * len(jobs))
        asked = f"SELECT job, event, at FROM events WHERE job IN ({marks}) ORDER BY rowid"  # noqa: S608 - marks alone
        with self._lock:
            rows = self._db.execute(asked, list(jobs)).fetchall()
        found: dict[str, Times] = defaultdict(Times)
        for job, event, at in rows:
            getattr(found[job], event).append(at)
        return {job: found[job] for job in jobs}

    def close(self) -> None:
        """Give the file free."""
        with self._lock:
            self._db.close()
