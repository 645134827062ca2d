"""A1111's model hash: the first ten hex digits of a file's sha256, remembered while path, size and time stay."""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from pathlib import Path
from typing import Any

from backend.errors import DiskFull, NotFound
from backend.records.files import write_atomically

HASH_DIGITS = 10
_BLOCK = 4 * 2**20
_log = logging.getLogger(__name__)


class ModelHashes:
    """Hashes of model files, kept in one small JSON file that may be deleted at any time."""

    def __init__(self, cache: Path) -> None:
        self._cache = cache
        self._lock = threading.Lock()

    def known(self, path: Path) -> str | None:
        """The hash if it is remembered and the file is unchanged since; never reads the model."""
        try:
            key, stamp = self._stamp(path)
        except OSError:
            return None
        entry = self._read().get(key)
        if not isinstance(entry, dict) or (entry.get("size"), entry.get("mtime_ns")) != stamp:
            return None
        return str(entry.get("sha256", ""))[:HASH_DIGITS] or None

    def get(self, path: Path) -> str:
        """The hash, computed if need be: a few seconds for a file of several GB, once.

        Raises:
            NotFound: the file is gone or cannot be read.
        """
        found = self.known(path)
        if found is not None:
            return found
        try:
            key, stamp = self._stamp(path)
            digest = hashlib.sha256()
            with path.open("rb") as file:
                while block := file.read(_BLOCK):
                    digest.update(block)
        except OSError as error:
            raise NotFound(f"{path.name} cannot be read any more.", "Look at the models folder.") from error
        with self._lock:
            entries = self._read()
            entries[key] = {"size": stamp[0], "mtime_ns": stamp[1], "sha256": digest.hexdigest()}
            try:
                write_atomically(self._cache, json.dumps(entries, indent=1).encode())
            except DiskFull as error:
                _log.warning("model hashes are not remembered: %s", error)
        return digest.hexdigest()[:HASH_DIGITS]

    def _stamp(self, path: Path) -> tuple[str, tuple[int, int]]:
        status = path.stat()
        return str(path.resolve()), (status.st_size, status.st_mtime_ns)

    def _read(self) -> dict[str, Any]:
        try:
            found = json.loads(self._cache.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}  # a cache: what cannot be read is computed again
        return found if isinstance(found, dict) else {}
