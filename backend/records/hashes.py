"""A1111's model hash: the first ten hex digits of a file's sha256, remembered while path, size and time stay."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from backend.errors import Cancelled, DiskFull, NotFound
from backend.records.files import write_atomically

HASH_DIGITS = 10
A1111_NOTHING = hashlib.sha256(b"").hexdigest()[:8]  # see ``a1111_hash``
_BLOCK = 4 * 2**20
_log = logging.getLogger(__name__)


def tensors_hash(path: Path) -> str:
    """The sha256 of a safetensors file behind its header, all 64 digits: it stays when only the metadata change.

    A1111 names embeddings and LoRAs by its first 12.

    Raises:
        NotFound: the file is gone or cannot be read.
    """
    try:
        with path.open("rb") as file:
            file.seek(8 + int.from_bytes(file.read(8), "little"))
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise NotFound(f"{path.name} cannot be read any more.", "Look at the models folder.") from error


def a1111_hash(path: Path) -> str:
    """A1111's old hash, by which its ControlNet extension names models: 8 hex digits of 64 KiB behind the first MiB.

    Source: AUTOMATIC1111 ``modules/sd_models.py`` model_hash. Of a smaller file, or one that cannot be read, it is that
    of nothing, which tells no two apart.
    """
    try:
        with path.open("rb") as file:
            file.seek(2**20)
            return hashlib.sha256(file.read(2**16)).hexdigest()[:8]
    except OSError:
        return A1111_NOTHING


class ModelHashes:
    """Hashes of model files, kept in one small JSON file that may be deleted at any time."""

    def __init__(self, cache: Path) -> None:
        self._cache = cache
        self._lock = threading.Lock()
        self._read_at: tuple[int, int] | None = None  # time of change and size of the cache that is in memory
        self._entries: dict[str, Any] = {}
        self._real: dict[str, str] = {}  # path as it was found -> without links

    def known(self, path: Path) -> str | None:
        """The hash if it is remembered and the file is unchanged since; never reads the model."""
        try:
            status = path.stat()
        except OSError:
            return None
        sha256 = self.of(str(path), status.st_size, status.st_mtime_ns)
        return None if sha256 is None else sha256[:HASH_DIGITS]

    @property
    def version(self) -> object:
        """Another value than before: more hashes are known, perhaps by the other process."""
        self._read()
        return self._read_at

    def of(self, path: str, size: int, mtime_ns: int) -> str | None:
        """All 64 digits for a file as it was found; asks neither the file nor the disk for it."""
        entries = self._read()
        if path not in entries:
            path = self._real.get(path) or self._real.setdefault(path, str(Path(path).resolve()))
        entry = entries.get(path)
        if not isinstance(entry, dict) or (entry.get("size"), entry.get("mtime_ns")) != (size, mtime_ns):
            return None
        return str(entry.get("sha256", "")) or None

    def get(self, path: Path) -> str:
        """The hash, computed if need be: a few seconds for a file of several GB, once.

        Raises:
            NotFound: the file is gone or cannot be read.
        """
        return self.known(path) or self.compute(path)

    def compute(self, path: Path, *, pause: Callable[[], bool] | None = None) -> str:
        """The hash, read from the file, and remembered.

        Args:
            pause: called between blocks of 4 MiB, may sleep; True gives up. Where it is given the system is told not
                to keep what was read: a hash in passing should not drive a model out of its memory.
        Raises:
            NotFound: the file is gone or cannot be read.
            Cancelled: ``pause`` said so.
        """
        try:
            key, stamp = self._stamp(path)
            digest = hashlib.sha256()
            with path.open("rb", buffering=0) as file:
                while block := file.read(_BLOCK):
                    digest.update(block)
                    if pause is not None:
                        _forget(file.fileno(), file.tell(), len(block))
                        if pause():
                            raise Cancelled("The hash was not computed to its end.")
            changed = self._stamp(path)[1] != stamp
        except OSError as error:
            raise NotFound(f"{path.name} cannot be read any more.", "Look at the models folder.") from error
        if not changed:
            self._remember(key, {"size": stamp[0], "mtime_ns": stamp[1], "sha256": digest.hexdigest()})
        return digest.hexdigest()[:HASH_DIGITS]

    def _remember(self, key: str, entry: dict[str, Any]) -> None:
        with self._lock:
            entries = {**self._read(), key: entry}  # read again: the engine writes here too
            try:
                write_atomically(self._cache, json.dumps(entries, indent=1).encode())
            except DiskFull as error:
                _log.warning("model hashes are not remembered: %s", error)

    def _stamp(self, path: Path) -> tuple[str, tuple[int, int]]:
        status = path.stat()
        return str(path.resolve()), (status.st_size, status.st_mtime_ns)

    def _read(self) -> dict[str, Any]:
        """What is remembered; from the disk only when the file has changed. Not to be written to."""
        try:
            status = self._cache.stat()
            read_at = (status.st_mtime_ns, status.st_size)
            if read_at != self._read_at:
                found = json.loads(self._cache.read_text(encoding="utf-8"))
                self._entries, self._read_at = (found if isinstance(found, dict) else {}), read_at
        except (OSError, ValueError):
            return {}  # a cache: what cannot be read is computed again
        return self._entries


def _forget(descriptor: int, end: int, length: int) -> None:
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, end - length, length, os.POSIX_FADV_DONTNEED)
