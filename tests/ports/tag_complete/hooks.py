"""Tag Complete's engine side: counts the tags of what was saved, and notes which model is loaded."""

from __future__ import annotations

import functools
import time
from pathlib import Path

from backend.api import JobView, hookimpl

from .counts import FILE, Counts, tags_of

WRITE_SECONDS = 20.0  # between two writings, so that a crash loses little and the web side lags little


class Book:
    """The counts of a process, and when they were written last."""

    def __init__(self) -> None:
        self.counts = Counts()
        self.written = time.monotonic()

    def write(self, folder: Path) -> None:
        """Put them on disk."""
        self.counts.write(folder)
        self.written = time.monotonic()


@functools.cache
def book() -> Book:
    """The only one."""
    return Book()


@hookimpl
def on_startup(data_folder: Path) -> None:
    """Go on with what was counted before; a damaged file is put aside, and what is raised is told to the user."""
    own = book()
    try:
        own.counts = Counts.read(data_folder)
    except ValueError:
        (data_folder / FILE).replace(data_folder / f"{FILE}.damaged")
        raise


@hookimpl
def model_loaded(name: str, part: str) -> None:
    """A denoiser decides whose tags come first."""
    if part == "denoiser":
        book().counts.loaded = name


@hookimpl
def picture_saved(job: JobView, path: Path, parameters: str) -> None:
    """One more use of each tag of its prompt."""
    own = book()
    own.counts.add(job.request.checkpoint, tags_of(job.request.prompt))
    if time.monotonic() - own.written > WRITE_SECONDS:
        own.write(job.data_folder)


@hookimpl
def on_shutdown(data_folder: Path) -> None:
    """Keep them."""
    book().write(data_folder)
