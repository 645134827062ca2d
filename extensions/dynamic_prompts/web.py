"""Wildcards offered while one types ``__``, with a few of their lines."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

from webui.api import StudioView, Word, WordsSpec, hookimpl

from .files import FOLDER, options, wildcard_files

FRESH = 2.0  # seconds that the list of files is good for: it is asked for with each letter
SHOWN = 5  # lines of a wildcard
LOOKED_AT = 4000  # characters of its file


class Finder:
    """The wildcards of a folder by how their names begin, then by what they hold."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: Mapping[str, Path] = {}
        self._read = -FRESH

    def __call__(self, typed: str, most: int) -> Iterator[Word]:
        """The names that fit, with what is in their files."""
        if time.monotonic() - self._read >= FRESH:
            self._files, self._read = wildcard_files(self._folder), time.monotonic()
        wanted = typed.casefold()
        fitting = sorted((name for name in self._files if wanted in name), key=lambda name: (_rank(name, wanted), name))
        return (Word(name, ", ".join(_first(self._files[name]))) for name in fitting[:most])


def _rank(name: str, wanted: str) -> int:
    if name.startswith(wanted):
        return 0
    return 1 if name.rpartition("/")[2].startswith(wanted) else 2


def _first(path: Path) -> Sequence[str]:
    try:
        with path.open(encoding="utf-8-sig", errors="replace") as file:
            lines = file.read(LOOKED_AT).splitlines()
    except OSError:  # gone since
        return ()
    return tuple(islice(options(lines), SHOWN))


@hookimpl
def register_words(studio: StudioView) -> Sequence[WordsSpec]:
    """``__ani`` becomes ``__animal__``."""
    return [WordsSpec("wildcards", Finder(studio.data_folder / FOLDER), starts="__", ends="__")]
