"""Where pictures go: ``outputs/YYYY-MM-DD/NNNNN-SEED-JOB-INDEX.png``, written whole with their request inside.

Number and seed are what A1111's users look for; job and index make a job that is run again after a crash overwrite
its own pictures, with the same bytes, instead of leaving doubles. The server makes every name.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from PIL import Image

from backend.records.containers import encode
from backend.records.files import sweep_temps, write_atomically
from backend.records.made import MadePictures
from backend.records.metadata import document
from backend.records.parameters_text import parameters_text
from backend.records.registry import Registry, core_registry
from backend.request import GenerationRequest, ImageFormat

_SUFFIXES: Mapping[ImageFormat, str] = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}
_NUMBERED = re.compile(r"(\d{5,})-")
_JOB_LETTERS = 8
_UNKEPT = ".unkept"  # pictures that only serve others: gone when those are saved ...
_UNKEPT_SECONDS = 30 * 86_400.0  # ... or when nobody came back for them


@dataclass(frozen=True)
class SavedPicture:
    """A picture that is on disk, whole; ``notes`` say what the file could not hold."""

    path: Path
    parameters: str
    notes: tuple[str, ...] = ()


class Outputs:
    """The folder of finished pictures.

    Args:
        quality: 1..100 of JPEG and WebP; 100 makes WebP lossless.
        registry: labels of samplers and schedules; the core's if None.
        today: the clock's date, for the day's folder.
    """

    def __init__(
        self,
        folder: Path,
        *,
        quality: int = 92,
        registry: Registry | None = None,
        today: Callable[[], date] = date.today,
    ) -> None:
        self._folder = folder
        self._quality = quality
        self._registry = registry or core_registry()
        self._today = today

    def save(
        self,
        image: Image.Image,
        *,
        job: str,
        index: int,
        request: GenerationRequest,
        facts: Mapping[str, str],
        place: int | None = None,
    ) -> SavedPicture:
        """Write the picture ``index`` of a resolved request; the same call gives the same bytes.

        Args:
            job: id of the job; "" outside the server: then request and facts stand for it.
            place: of the picture in the whole job, where that is made of several requests; otherwise ``index``.
            facts: see ``parameters_text``.
        Raises:
            DiskFull: it could not be written; nothing is left behind.
        """
        parameters = parameters_text(request, facts, self._registry, index=index)
        record = document(request, facts, index=index)
        encoded = encode(
            image.convert("RGB"), request.image_format, parameters=parameters, document=record, quality=self._quality
        )
        seed, variation = request.seeds_of(index)
        shown_seed = variation if request.variation_strength > 0 else seed
        number = index if place is None else place
        tail = f"-{shown_seed}-{_job_part(job, record)}-{number}{_SUFFIXES[request.image_format]}"
        folder = self._folder / self._today().isoformat()
        path = folder / _name_for(folder, tail)
        write_atomically(path, encoded.data)
        notes = (
            () if encoded.has_parameters else ("The prompt is too long for a JPEG's EXIF: only Easel reads it back.",)
        )
        return SavedPicture(path, parameters, notes)

    def made(self, job: str | None) -> MadePictures:
        """The pictures that are there: those of a job, or with None all."""
        return MadePictures(self._folder, None if job is None else _job_letters(job))

    def unkept(self, order: str) -> Outputs:
        """A place for pictures that are not to stay; ``order`` names it, so that an order that is cut off goes on."""
        folder = self._folder / _UNKEPT / hashlib.sha256(order.encode()).hexdigest()[:16]
        return Outputs(folder, quality=self._quality, registry=self._registry, today=self._today)

    def remove(self) -> None:
        """Remove the folder of an ``unkept``."""
        if self._folder.parent.name == _UNKEPT:
            shutil.rmtree(self._folder, ignore_errors=True)
            with suppress(OSError):  # others' orders are in it
                self._folder.parent.rmdir()

    def sweep(self) -> int:
        """Remove the temp files of writers that were killed, and what was to serve orders that never came back.

        Returns how many files of writers there were.
        """
        old = time.time() - _UNKEPT_SECONDS
        unkept = self._folder / _UNKEPT
        for folder in unkept.iterdir() if unkept.is_dir() else ():
            if folder.stat().st_mtime < old:
                shutil.rmtree(folder, ignore_errors=True)
        return sweep_temps(self._folder)


def _job_part(job: str, record: str) -> str:
    return _job_letters(job) or hashlib.sha256(record.encode()).hexdigest()[:_JOB_LETTERS]


def _job_letters(job: str) -> str:
    return re.sub("[^0-9A-Za-z]", "", job)[:_JOB_LETTERS]


def _name_for(folder: Path, tail: str) -> str:
    """The name this picture has already, or one with the next free number."""
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    known = next((name for name in names if name.endswith(tail) and name[: -len(tail)].isdigit()), None)
    if known is not None:
        return known
    numbers = [int(match[1]) for name in names if (match := _NUMBERED.match(name))]
    return f"{max(numbers, default=-1) + 1:05d}{tail}"
