"""Keeps ``inputs/`` within its quota: what no job and no saved picture names goes, never what a job needs."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from backend.errors import DiskFull
from backend.records.images import Inputs, StoredInput
from backend.records.input_quota import InputFile, input_files, named_by_pictures, named_in, removable
from backend.records.jobs import JobStore
from backend.settings import Settings

log = logging.getLogger(__name__)
GIB = 2**30


class InputKeeper:
    """Around the stored inputs of one studio.

    Attributes:
        lock: held while a job that names inputs is checked and accepted, so that none goes in between.
    """

    def __init__(
        self, inputs: Inputs, store: JobStore, settings: Settings, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._inputs = inputs
        self._store = store
        self._settings = settings
        self._clock = clock
        self.lock = threading.RLock()

    def keep(self, data: bytes) -> StoredInput:
        """Store a picture from outside.

        Raises:
            BadRequest: it does not pass the gate.
            DiskFull: it could not be written, or the quota is used up by pictures that are needed.
        """
        with self.lock:
            before = {file.sha256 for file in input_files(self._settings.inputs_dir)}
            stored = self._inputs.store(data)
        if stored.sha256 not in before:
            try:
                self.check_room()
            except DiskFull:
                with self.lock:
                    (self._settings.inputs_dir / f"{stored.sha256}.png").unlink(missing_ok=True)
                raise
        return stored

    def check_room(self) -> None:
        """Raise ``DiskFull`` if the quota is used up by pictures that are needed or new."""
        if self._is_full():
            self.prune()
            if self._is_full():
                raise DiskFull(
                    f"inputs/ has its {self._settings.inputs_gb:g} GiB, and every picture in it is in use or new.",
                    "Allow more with --inputs-gb, or clear the history.",
                )

    def prune(self) -> int:
        """Remove what nothing names and is too old or too much; returns how many."""
        doomed = self._doomed(self._named_by_jobs())
        if not doomed:
            return 0
        pictures = named_by_pictures(self._settings.outputs_dir)  # takes a second for ten thousand: not under the lock
        with self.lock:
            doomed = self._doomed(self._named_by_jobs() | pictures)
            for file in doomed:
                file.path.unlink(missing_ok=True)
        if doomed:
            log.info("%d sent pictures that nothing uses were removed", len(doomed))
        return len(doomed)

    def _doomed(self, needed: set[str]) -> list[InputFile]:
        return removable(
            input_files(self._settings.inputs_dir),
            needed=needed,
            days=self._settings.inputs_days,
            max_bytes=self._settings.inputs_gb * GIB,
            now=self._clock(),
        )

    def _named_by_jobs(self) -> set[str]:
        return set().union(*(named_in(request.encode()) for request in self._store.requests()))

    def _is_full(self) -> bool:
        limit = self._settings.inputs_gb * GIB
        return bool(limit) and sum(file.bytes for file in input_files(self._settings.inputs_dir)) > limit
