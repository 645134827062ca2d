"""Looks after the model folders in the background: new files are noticed, read, and later hashed.

Folders are gone through every few seconds rather than watched by the system: that also sees network drives, linked
folders and files that grow in place, needs no library, and takes some 70 ms for 5,000 files. Where it takes longer it
is done more rarely, so that it never costs more than a fiftieth of a core or a sixth of a slow drive's time.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable

from backend.errors import Cancelled, UserError
from backend.records.entries import ModelEntry
from backend.records.model_files import ModelFiles

LOOK_SECONDS = 2.0
LOOK_SHARES = (50, 5)  # a look is followed by a pause of so many times its processor time, and its length
READ_SECONDS = 0.5  # of reading headers before the folders are looked at again
BREATH = 0.004  # seconds after each header, some 10 ms of Python: requests of the page come first
HASH_AFTER = 30.0  # seconds: page, engine and first picture come first
BUSY_SECONDS = 0.5  # between two questions whether a job waits or runs
log = logging.getLogger(__name__)


class ModelWatch:
    """Two threads around the model files.

    Args:
        is_busy: whether a job waits or runs: then no hash is computed.
        hashing: whether hashes are computed before somebody needs them.
    """

    def __init__(
        self, files: ModelFiles, *, is_busy: Callable[[], bool], hashing: bool, hash_after: float = HASH_AFTER
    ) -> None:
        self._files = files
        self._is_busy = is_busy
        self._hash_after = hash_after
        self._stopping = threading.Event()
        self._work = [self._watch, self._hash] if hashing else [self._watch]
        self._busy_asked = 0.0

    def start(self) -> None:
        """Begin to look; the first look happens at once."""
        for work in self._work:
            threading.Thread(target=work, name=f"models{work.__name__}", daemon=True).start()

    def stop(self) -> None:
        """End both threads soon."""
        self._stopping.set()

    def _watch(self) -> None:
        while not self._stopping.is_set():
            pause = LOOK_SECONDS
            try:
                busy, started = time.thread_time(), time.perf_counter()
                self._files.look()
                busy, length = time.thread_time() - busy, time.perf_counter() - started
                pause = max(pause, busy * LOOK_SHARES[0], length * LOOK_SHARES[1])
                while self._files.read_on(READ_SECONDS, breath=BREATH) and not self._stopping.is_set():
                    continue
                self._files.heed()
                self._files.settle_answers()
            except Exception:
                log.exception("a fault while model folders were looked at")
            self._stopping.wait(pause)

    def _hash(self) -> None:
        _be_nice()
        tried: set[tuple[str, int, int]] = set()
        self._stopping.wait(self._hash_after)
        while not self._stopping.is_set():
            waiting = [entry for entry in self._files.listing() if _key(entry) not in tried and self._lacks(entry)]
            for entry in sorted(waiting, key=lambda entry: (entry.folder != "checkpoints", entry.file_bytes)):
                tried.add(_key(entry))
                if self._pause():
                    return
                try:
                    self._files.compute_hash(entry, pause=self._pause)
                except Cancelled:
                    return
                except UserError as error:  # gone since
                    log.info("no hash: %s", error)
            self._stopping.wait(LOOK_SECONDS * 5)

    def _lacks(self, entry: ModelEntry) -> bool:
        return entry.info is not None and self._files.known_sha256(entry) is None

    def _pause(self) -> bool:
        """Wait while a job waits or runs; True when the program ends."""
        if time.monotonic() - self._busy_asked < BUSY_SECONDS:
            return self._stopping.is_set()
        while not self._stopping.is_set() and self._is_busy():
            self._stopping.wait(2 * BUSY_SECONDS)
        self._busy_asked = time.monotonic()
        return self._stopping.is_set()


def _key(entry: ModelEntry) -> tuple[str, int, int]:
    return (str(entry.path), entry.stamp.size, entry.stamp.mtime_ns)


def _be_nice() -> None:
    """This thread gets what the others leave; Linux alone knows that of single threads.

    Not for threads that run Python for long: one that is put aside while it holds the interpreter holds up all others.
    """
    with contextlib.suppress(AttributeError, OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
