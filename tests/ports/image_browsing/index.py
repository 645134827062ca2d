"""An index of saved pictures by what their metadata say; a file of its own, which can be made again at any time."""

from __future__ import annotations

import re
import sqlite3
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SCHEMA = """
CREATE TABLE IF NOT EXISTS pictures (
    id TEXT PRIMARY KEY, created REAL NOT NULL, prompt TEXT NOT NULL, negative TEXT NOT NULL, width INTEGER NOT NULL,
    height INTEGER NOT NULL, seed INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS by_time ON pictures (created DESC, id);
CREATE TABLE IF NOT EXISTS tags (
    picture TEXT NOT NULL REFERENCES pictures (id), kind TEXT NOT NULL, name TEXT NOT NULL,
    UNIQUE (picture, kind, name)
);
CREATE INDEX IF NOT EXISTS by_name ON tags (kind, name);
"""
KINDS = ("word", "model", "sampler", "size")
_WEIGHT = re.compile(r"[()\[\]]|:\s*[\d.]+(?=\s*\))")


@dataclass(frozen=True)
class Entry:
    """What the index knows of a picture."""

    id: str
    created: float
    prompt: str
    negative: str
    width: int
    height: int
    seed: int


class Index:
    """Pictures and their tags. Usable from any thread."""

    def __init__(self, file: Path) -> None:
        self._lock = threading.Lock()
        self._db = sqlite3.connect(file, check_same_thread=False, isolation_level=None)
        self._db.executescript(SCHEMA)

    def add(self, entry: Entry, tags: Iterable[tuple[str, str]]) -> None:
        """Take a picture in, or anew."""
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            values = [entry.id, entry.created, entry.prompt, entry.negative, entry.width, entry.height, entry.seed]
            self._db.execute("INSERT OR REPLACE INTO pictures VALUES (?, ?, ?, ?, ?, ?, ?)", values)
            self._db.execute("DELETE FROM tags WHERE picture = ?", [entry.id])
            self._db.executemany(
                "INSERT OR IGNORE INTO tags VALUES (?, ?, ?)", [(entry.id, kind, name) for kind, name in tags]
            )
            self._db.execute("COMMIT")

    def knows(self, picture: str) -> bool:
        """Whether it is in."""
        with self._lock:
            return self._db.execute("SELECT 1 FROM pictures WHERE id = ?", [picture]).fetchone() is not None

    def search(self, text: str = "", tags: Mapping[str, str] | None = None, *, limit: int = 60) -> list[Entry]:
        """Pictures, newest first, whose prompts hold every word of ``text`` and which have all ``tags``."""
        where, values = ["1"], list[Any]()
        for word in text.split():
            where.append("instr(lower(p.prompt || ' ' || p.negative), ?) > 0")
            values.append(word.lower())
        for kind, name in (tags or {}).items():
            where.append("EXISTS (SELECT 1 FROM tags t WHERE t.picture = p.id AND t.kind = ? AND t.name = ?)")
            values += [kind, name]
        statement = f"SELECT * FROM pictures p WHERE {' AND '.join(where)} ORDER BY created DESC, id LIMIT ?"  # noqa: S608 - no value in it
        with self._lock:
            return [Entry(*row) for row in self._db.execute(statement, [*values, limit]).fetchall()]

    def tags(self, kind: str, *, limit: int = 200) -> list[tuple[str, int]]:
        """Names of a kind, the most frequent first, with how many pictures have them."""
        statement = "SELECT name, COUNT(*) FROM tags WHERE kind = ? GROUP BY name ORDER BY 2 DESC, 1 LIMIT ?"
        with self._lock:
            return self._db.execute(statement, [kind, limit]).fetchall()

    def close(self) -> None:
        """Give the file free."""
        with self._lock:
            self._db.close()


def words_of(prompt: str) -> Sequence[str]:
    """The parts of a prompt between commas, without weights: what a person would look for."""
    parts = (_WEIGHT.sub("", part).strip().lower() for part in prompt.replace("\n", ",").split(","))
    return tuple(dict.fromkeys(part[:80] for part in parts if part))
