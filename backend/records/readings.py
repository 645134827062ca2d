"""What headers told, kept on disk, so that a file is opened once and not again after every start.

A cache: it may be deleted at any time. A reading counts while the file's stamp and the code of ``backend.formats`` are
what they were; a damaged cache is thrown away with a line in the log. Page and engine both use it.
"""

from __future__ import annotations

import hashlib
import logging
import sqlite3
import threading
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import backend.formats
from backend.records.plain import from_text, to_text

MAX_ROWS = 50_000  # beyond it, what is no longer there is forgotten
_BUSY = 2.0  # seconds to wait for the other process
_SCHEMA = "CREATE TABLE IF NOT EXISTS readings (path TEXT PRIMARY KEY, stamp TEXT, rules TEXT, told TEXT)"
_log = logging.getLogger(__name__)


class Stamp(NamedTuple):
    """By which a changed file is known: bytes, time of change, and that of its .yaml sidecar (0: none)."""

    size: int
    mtime_ns: int
    hint_ns: int = 0


class Readings:
    """Path -> what its header told; in memory alone where ``file`` is None or cannot be used.

    Args:
        rules: version of the rules that made the readings; those of another version are not used.
    """

    def __init__(self, file: Path | None, *, rules: str | None = None) -> None:
        self._file = file
        self._rules = rules or rules_version()
        self._lock = threading.Lock()
        self._known: dict[str, tuple[Stamp, str]] | None = None

    def get(self, path: str, stamp: Stamp) -> Any | None:
        """The record or error that was put for this path and stamp; None if there is none (any more)."""
        with self._lock:
            if self._known is None:
                self._known = self._load()
            stamped, text = self._known.get(path, (None, ""))
        if stamped != stamp:
            return None
        try:
            return from_text(text)
        except ValueError as error:
            _log.warning("a remembered header is damaged and is read again: %s", error)
            return None

    def put(self, told: Mapping[str, tuple[Stamp, object]]) -> None:
        """Remember what was read."""
        texts = {path: (stamp, to_text(value)) for path, (stamp, value) in told.items()}
        with self._lock:
            if self._known is None:
                self._known = self._load()
            self._known |= texts
        rows = [(path, _stamp_text(stamp), self._rules, text) for path, (stamp, text) in texts.items()]
        self._change([("INSERT OR REPLACE INTO readings VALUES (?, ?, ?, ?)", row) for row in rows])

    def keep_only(self, paths: Iterable[str]) -> None:
        """Forget other files once there are too many of them: a drive that is unplugged now may come back."""
        with self._lock:
            if self._known is None or len(self._known) <= MAX_ROWS:
                return
            gone = self._known.keys() - set(paths)
            for path in gone:
                del self._known[path]
        self._change([("DELETE FROM readings WHERE path = ?", (path,)) for path in gone])

    def _load(self) -> dict[str, tuple[Stamp, str]]:
        if self._file is None:
            return {}
        try:
            with _opened(self._file) as db:
                db.execute("DELETE FROM readings WHERE rules IS NOT ?", (self._rules,))
                rows = db.execute("SELECT path, stamp, told FROM readings").fetchall()
            return {path: (_stamp(stamp), told) for path, stamp, told in rows}
        except (sqlite3.OperationalError, OSError) as error:  # read-only, locked, no room: only slower
            _log.warning("what model headers told is not remembered: %s", error)
            return {}
        except (sqlite3.DatabaseError, ValueError, TypeError) as error:
            _log.warning("the cache of model headers is damaged and is made anew: %s", error)
            self._throw_away()
            return {}

    def _change(self, statements: list[tuple[str, tuple[str, ...]]]) -> None:
        if self._file is None or not statements:
            return
        try:
            with _opened(self._file) as db:
                for statement, values in statements:
                    db.execute(statement, values)
        except (sqlite3.OperationalError, OSError) as error:
            _log.warning("what model headers told is not remembered: %s", error)
        except sqlite3.DatabaseError as error:
            _log.warning("the cache of model headers is damaged and is made anew: %s", error)
            self._throw_away()

    def _throw_away(self) -> None:
        if self._file is None:
            return
        for suffix in ("", "-wal", "-shm"):
            try:
                self._file.with_name(self._file.name + suffix).unlink(missing_ok=True)
            except OSError as error:
                _log.warning("%s cannot be removed: %s", self._file.name, error)


@cache
def rules_version() -> str:
    """A number that changes with any line of ``backend.formats``: nobody has to remember to raise it."""
    digest = hashlib.sha256()
    for source in sorted(Path(next(iter(backend.formats.__path__))).rglob("*.py")):
        digest.update(source.name.encode() + source.read_bytes())
    return digest.hexdigest()[:16]


class _opened:  # noqa: N801 - reads as the function it stands for
    """A connection for one transaction: committed at the end, undone by an exception, closed in any case."""

    def __init__(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(file, timeout=_BUSY)

    def __enter__(self) -> sqlite3.Connection:
        try:
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.execute(_SCHEMA)
        except BaseException:
            self._db.close()
            raise
        return self._db

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                self._db.commit()
        finally:
            self._db.close()


def _stamp_text(stamp: Stamp) -> str:
    return " ".join(map(str, stamp))


def _stamp(text: str) -> Stamp:
    return Stamp(*map(int, text.split()))
