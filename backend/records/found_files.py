"""The model files on disk: found by their names, their headers read when somebody asks or in the background.

A reading is kept on disk while path, size and time of change stay. What a file is for a request is ``model_files``'s.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from backend.errors import ModelCorrupt, NotFound, UserError
from backend.formats.detect import detect
from backend.formats.folders import detect_folder
from backend.formats.reader import read_header
from backend.records.entries import Info, ModelEntry
from backend.records.names import name_files
from backend.records.places import FOLDERS, Folder, Place
from backend.records.readings import Readings, Stamp
from backend.records.walk import Found, walk

SETTLED = 10.0  # seconds without a change after which a damaged file is no longer thought to be on its way


@dataclass
class FoundFile:
    """A file as it was found, and what its header told once it was read."""

    found: Found
    place: Place
    name: str
    told: Info | UserError | None = None
    again_at: float | None = None  # when a file that may still be on its way is read again
    entry: ModelEntry | None = field(default=None, repr=False)  # made from the above when it is asked for


class FoundFiles:
    """The files below these places, in the order in which they are listed; usable from several threads.

    Whoever makes entries of files holds ``lock``, in which they change.

    Args:
        clock: seconds since 1970.
    """

    def __init__(self, places: Sequence[Place], readings: Readings, clock: Callable[[], float]) -> None:
        self.lock = threading.RLock()
        self._places = sorted(places, key=lambda place: FOLDERS.index(place.folder))
        self._readings = readings
        self._clock = clock
        self._walking = threading.Lock()
        self._files: dict[tuple[Place, str], FoundFile] = {}
        self._looked = False
        self._version = 0

    @property
    def version(self) -> int:
        """Rises whenever a listing would differ."""
        return self._version

    @property
    def were_looked_for(self) -> bool:
        """Whether the folders were gone through once."""
        return self._looked

    def all(self) -> list[FoundFile]:
        """Every file as it is known now."""
        with self.lock:
            return list(self._files.values())

    def in_folder(self, folder: Folder) -> list[FoundFile]:
        """The files of a folder."""
        return [file for file in self.all() if file.place.folder == folder]

    def that_may_be_in(self, folder: Folder) -> list[FoundFile]:
        """The files whose header may turn out to be one of this folder, as far as their place says."""
        return [file for file in self.all() if folder in file.place.may_hold]

    def count_change(self) -> None:
        """Raise ``version``: what is listed of the files differs, though none of them does."""
        with self.lock:
            self._version += 1

    def look(self) -> bool:
        """Go through the folders: new, changed and vanished files are noticed, and none is opened."""
        with self._walking:
            found = [(place, each) for place in self._distinct_places() for each in walk(place.top)]
            with self.lock:
                files: dict[tuple[Place, str], FoundFile] = {}
                for (place, each), name in zip(found, name_files(found), strict=True):
                    key, before = (place, each.path), self._files.get((place, each.path))
                    if before is not None and before.found == each and before.name == name:
                        files[key] = before
                        continue
                    files[key] = FoundFile(each, place, name, self._readings.get(each.path, each.stamp))
                changed = list(files.items()) != list(self._files.items())
                self._files = files
                self._readings.keep_only(each.path for _, each in found)
                self._version += changed
                self._looked = True
                return changed

    def read_on(self, seconds: float, *, breath: float = 0.0) -> bool:
        """Read headers that have not been read, for so long; True if some are left. Never holds up other callers.

        Args:
            breath: seconds to sleep after each, so that other threads come in between.
        """
        end = self._clock() + seconds
        told: dict[str, tuple[Stamp, object]] = {}
        with self.lock:
            due = [file for file in self._files.values() if self.is_due(file)]
        for file in due:
            told |= self._read(file)
            if self._clock() >= end:
                break
            if breath:
                time.sleep(breath)
        self._readings.put(told)
        return len(due) > len(told) and any(self.is_due(file) for file in due)

    def is_due(self, file: FoundFile) -> bool:
        """Whether its header is still to be read, or to be read again."""
        return file.told is None or (file.again_at is not None and self._clock() >= file.again_at)

    def read(self, file: FoundFile) -> None:
        """Read its header now, if that is due, and remember what it told."""
        if self.is_due(file):
            self._readings.put(self._read(file))

    def _read(self, file: FoundFile) -> dict[str, tuple[Stamp, object]]:
        """Read a header; returns what is worth remembering on disk."""
        try:
            told: Info | UserError = _read_model(file.found)
        except UserError as error:
            told = error.with_traceback(None)
        changed = file.found.stamp.mtime_ns / 1e9
        is_young = isinstance(told, ModelCorrupt) and 0 <= self._clock() - changed < SETTLED
        with self.lock:
            file.told, file.entry = told, None
            file.again_at = changed + SETTLED if is_young else None
            self._version += 1
        is_lasting = not is_young and not isinstance(told, NotFound)
        return {file.found.path: (file.found.stamp, told)} if is_lasting else {}

    def _distinct_places(self) -> list[Place]:
        """The places without doubles: a tree that is named twice is listed once."""
        seen: dict[tuple[str, Path], Place] = {}
        for place in self._places:
            seen.setdefault((place.folder, place.top.resolve()), place)
        return list(seen.values())


def _read_model(found: Found) -> Info:
    """What the header of a file, or those of a diffusers folder, tell; raises ``UserError``."""
    path = Path(found.path)
    return detect_folder(path) if found.is_folder else detect(read_header(path))
