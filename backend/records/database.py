"""One SQLite file held by one process: WAL, synchronous=FULL, one connection behind one lock, faults as sentences."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from backend.errors import DataUnusable, DiskFull

LOCK_SECONDS = 3.0  # how long to wait for a predecessor that is just dying


class Database:
    """The file, open for this process alone until ``close``; usable from any thread.

    Args:
        path: the file; its folder is made if need be.
        schema: CREATE statements, run once on a new file.
        tables: the names they create, by which a strange database is told from ours.
        version: number of the schema, kept in the file's ``user_version``.
    Raises:
        DataUnusable: not a database, another program's, of a newer version, or held by another Easel.
        DiskFull: there is no room to write.
    """

    def __init__(self, path: Path, *, schema: str, tables: frozenset[str], version: int) -> None:
        self._path = path
        self._lock = threading.RLock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, timeout=LOCK_SECONDS, isolation_level=None, check_same_thread=False)
        except (sqlite3.OperationalError, OSError) as error:
            raise DataUnusable(
                f"The job store {path.name} cannot be opened ({error.__class__.__name__}).",
                "Choose a folder that can be written with --data-dir.",
            ) from error
        self._db.row_factory = sqlite3.Row
        try:
            self._prepare(schema, tables, version)
        except BaseException:
            self._db.close()
            raise

    def close(self) -> None:
        """Give the file free; nothing can be read or written afterwards."""
        with self._lock:
            self._db.close()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """A transaction: on disk when the block ends, undone when it raises."""
        with self._lock, self._told():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                if self._db.in_transaction:  # a full disk has rolled back by itself
                    self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Several reads that belong together: no writer comes between."""
        with self._lock, self._told():
            yield

    def rows(self, statement: str, *values: Any) -> list[sqlite3.Row]:
        """All rows; inside ``writing`` or ``reading`` only."""
        return self._db.execute(statement, values).fetchall()

    def row(self, statement: str, *values: Any) -> sqlite3.Row | None:
        """The first row; all are fetched, because RETURNING is done only with its last."""
        found = self.rows(statement, *values)
        return found[0] if found else None

    def change(self, statement: str, *values: Any) -> int:
        """How many rows a statement changed; inside ``writing`` only."""
        return self._db.execute(statement, values).rowcount

    def _prepare(self, schema: str, tables: frozenset[str], version: int) -> None:
        with self._told():
            # Held for the life of the process: a second server on this folder is told so instead of running jobs twice.
            self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.execute("PRAGMA foreign_keys = ON")
        with self.writing():
            found = self._db.execute("PRAGMA user_version").fetchone()[0]
            present = {row["name"] for row in self.rows("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if found > version:
                raise DataUnusable(
                    f"The job store {self._path.name} was written by a newer Easel (schema {found}; this one knows "
                    f"{version}).",
                    "Update Easel, or choose another --data-dir.",
                )
            if found == 0 and not present:
                for statement in schema.split(";"):
                    self._db.execute(statement)
                self._db.execute(f"PRAGMA user_version = {version}")
            elif found != version or not tables <= present:
                raise DataUnusable(
                    f"{self._path.name} is a database, but not Easel's job store.",
                    "Move it away, or choose another --data-dir.",
                )

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            text = str(error)
            if "full" in text:
                raise DiskFull(
                    f"The job store {self._path.name} could not be written: the disk is full.", "Make room on it."
                ) from error
            if "locked" in text:
                raise DataUnusable(
                    "Another Easel is running on this data folder.", "Use that one, stop it, or choose --data-dir."
                ) from error
            raise DataUnusable(
                f"The job store {self._path.name} cannot be used ({text}).",
                "Move the file away: Easel makes a new one, and no picture is lost with it.",
            ) from error
