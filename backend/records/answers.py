"""What a person said about files that cannot tell it themselves: kept by sha256, until that is known by path and stamp.

No cache: it is the user's own word, so a damaged file is set aside and not overwritten.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from backend.records.files import write_atomically
from backend.records.readings import Stamp

_log = logging.getLogger(__name__)
_EMPTY: Mapping[str, Mapping[str, Any]] = {"by_sha256": {}, "by_file": {}}


class ModelAnswers:
    """Question -> answer for each model file, in one small JSON file; None keeps them in memory alone."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._lock = threading.Lock()
        self._read_at: tuple[int, int] | None = None
        self._told: dict[str, Any] = {key: dict(value) for key, value in _EMPTY.items()}

    @property
    def version(self) -> object:
        """Another value than before: answers have changed, perhaps by the other process."""
        with self._lock:
            self._read()
            return self._read_at

    def of(self, path: str, stamp: Stamp, sha256: str | None) -> Mapping[str, str]:
        """The answers for a file; empty if nobody was asked."""
        with self._lock:
            told = self._read()
            if sha256 is not None and sha256 in told["by_sha256"]:
                return _texts(told["by_sha256"][sha256])
            entry = told["by_file"].get(path)
            if isinstance(entry, dict) and entry.get("size") == stamp.size and entry.get("mtime_ns") == stamp.mtime_ns:
                return _texts(entry.get("answers"))
            return {}

    def set(self, path: str, stamp: Stamp, sha256: str | None, about: str, answer: str | None) -> None:
        """Remember an answer in place of an earlier one; None takes that back. Raises ``DiskFull``."""
        others = {kept: said for kept, said in self.of(path, stamp, sha256).items() if kept != about}
        self._keep(path, stamp, sha256, others if answer is None else {**others, about: answer})

    def settle(self, sha256_of: Callable[[str, int, int], str | None]) -> None:
        """Keep by its hash what is kept by path, where the hash is known now: it then counts for every copy.

        Raises:
            DiskFull: it could not be written.
        """
        with self._lock:
            waiting = dict(self._read()["by_file"])
        for path, entry in waiting.items():
            if (
                isinstance(entry, dict)
                and isinstance(entry.get("size"), int)
                and isinstance(entry.get("mtime_ns"), int)
            ):
                stamp = Stamp(entry["size"], entry["mtime_ns"])
                sha256 = sha256_of(path, stamp.size, stamp.mtime_ns)
                if sha256 is not None:
                    self._keep(path, stamp, sha256, self.of(path, stamp, None))

    def _keep(self, path: str, stamp: Stamp, sha256: str | None, answers: Mapping[str, str]) -> None:
        with self._lock:
            told = {key: dict(value) for key, value in self._read().items()}
            told["by_file"].pop(path, None)
            if sha256 is not None:
                told["by_sha256"].pop(sha256, None)
            if answers and sha256 is None:
                told["by_file"][path] = {"size": stamp.size, "mtime_ns": stamp.mtime_ns, "answers": dict(answers)}
            elif answers:
                told["by_sha256"][sha256] = dict(answers)
            if self._file is None:
                self._told, self._read_at = told, (0, (self._read_at or (0, 0))[1] + 1)
                return
            write_atomically(self._file, json.dumps(told, indent=1).encode())
            self._read_at = None  # read again with the next question

    def _read(self) -> dict[str, Any]:
        if self._file is None:
            return self._told
        try:
            status = self._file.stat()
        except OSError:
            self._told, self._read_at = {key: dict(value) for key, value in _EMPTY.items()}, None
            return self._told
        read_at = (status.st_mtime_ns, status.st_size)
        if read_at != self._read_at:
            self._told, self._read_at = self._load(self._file), read_at
        return self._told

    def _load(self, file: Path) -> dict[str, Any]:
        try:
            told = json.loads(file.read_text(encoding="utf-8"))
            return {key: dict(told[key]) for key in _EMPTY}
        except OSError as error:
            _log.warning("answers about models cannot be read: %s", error)
        except (ValueError, KeyError, TypeError):
            aside = file.with_name(file.name + ".damaged")
            _log.warning("%s is damaged and was set aside as %s; questions are asked again", file.name, aside.name)
            try:
                file.replace(aside)
            except OSError as error:
                _log.warning("%s cannot be set aside: %s", file.name, error)
        return {key: dict(value) for key, value in _EMPTY.items()}


def _texts(answers: object) -> Mapping[str, str]:
    pairs = answers.items() if isinstance(answers, dict) else ()
    return {about: answer for about, answer in pairs if isinstance(about, str) and isinstance(answer, str)}
