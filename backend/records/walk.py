"""Finds model files and what lies beside them by their names alone; opens none of them.

Symbolic links are followed, to files and to folders: the user made them.
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from backend.formats.folders import INDEX
from backend.records.readings import Stamp

# The first one keeps the name where two files differ only in it.
SUFFIXES = (".safetensors", ".sft", ".gguf", ".ckpt", ".pt", ".pth", ".bin")
MAX_DEPTH = 8
_PICTURES = tuple(f"{middle}{end}" for middle in (".preview", "") for end in (".png", ".jpg", ".jpeg", ".webp"))
_NOTES = (".json", ".civitai.info", ".metadata.json", ".info")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Found:
    """A model file, or a diffusers folder, and its sidecars: files of the same stem beside it.

    Attributes:
        below: path below the folder that was walked, "/" between parts, with its suffix.
        preview: picture beside it, with its time of change in ns; None if there is none.
        notes: JSON files beside it.
    """

    path: str
    below: str
    stamp: Stamp
    preview: tuple[str, int] | None
    notes: tuple[str, ...]
    is_folder: bool = False

    @property
    def name(self) -> str:
        """``below`` without its suffix."""
        return self.below if self.is_folder else self.below.rpartition(".")[0]

    @property
    def suffix(self) -> str:
        """Its suffix, lower case; a folder holds .safetensors files."""
        return SUFFIXES[0] if self.is_folder else "." + self.below.rpartition(".")[2].lower()


def walk(top: Path) -> list[Found]:
    """The model files below ``top``, by name; a folder that is missing holds none."""
    found = _folder(str(top), "", MAX_DEPTH, frozenset())
    return sorted(found, key=lambda each: (each.below.casefold(), each.below))


def _folder(folder: str, below: str, depth: int, above: frozenset[tuple[int, int]]) -> Iterator[Found]:
    """``above`` holds the folders on the way down, against links in a circle."""
    try:
        status = Path(folder).stat()
        with os.scandir(folder) as listed:
            entries = [entry for entry in listed if not entry.name.startswith(".")]
    except OSError as error:
        if not isinstance(error, FileNotFoundError):
            _log.warning("models folder %s cannot be read: %s", Path(folder).name, error.strerror)
        return
    identity = (status.st_dev, status.st_ino)
    if identity in above:
        return
    files = {entry.name.lower(): entry for entry in entries}
    if INDEX in files and below:
        yield Found(
            folder, below.removesuffix("/"), folder_stamp(folder), _preview("preview", files), (), is_folder=True
        )
        return
    for entry in entries:
        stem, dot, suffix = entry.name.rpartition(".")
        if dot + suffix.lower() in SUFFIXES:
            found = _file(entry, below, stem, files)
            if found is not None:
                yield found
                continue
        if depth and _is_folder(entry):
            yield from _folder(entry.path, f"{below}{entry.name}/", depth - 1, above | {identity})


def folder_stamp(folder: str) -> Stamp:
    """By which a changed diffusers folder is known: all bytes, and the latest change, one level deep."""
    size = latest = 0
    for path in (folder, *_folders_in(folder)):
        for entry in _entries(path):
            status = _status(entry)
            if status is not None and stat.S_ISREG(status.st_mode):
                size, latest = size + status.st_size, max(latest, status.st_mtime_ns)
    return Stamp(size, latest)


def _folders_in(folder: str) -> list[str]:
    return [entry.path for entry in _entries(folder) if _is_folder(entry)]


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as listed:
            return list(listed)
    except OSError:
        return []


def _file(entry: os.DirEntry[str], below: str, stem: str, files: dict[str, os.DirEntry[str]]) -> Found | None:
    status = _status(entry)
    if status is None or not stat.S_ISREG(status.st_mode):  # a FIFO must not block, a dead link is nothing
        return None
    lower = stem.lower()
    hint = _status(files[lower + ".yaml"]) if lower + ".yaml" in files else None
    return Found(
        path=entry.path,
        below=below + entry.name,
        stamp=Stamp(status.st_size, status.st_mtime_ns, hint.st_mtime_ns if hint is not None else 0),
        preview=_preview(lower, files),
        notes=tuple(files[lower + end].path for end in _NOTES if lower + end in files),
    )


def _preview(stem: str, files: dict[str, os.DirEntry[str]]) -> tuple[str, int] | None:
    for end in _PICTURES:
        entry = files.get(stem + end)
        status = None if entry is None else _status(entry)
        if entry is not None and status is not None and stat.S_ISREG(status.st_mode):
            return entry.path, status.st_mtime_ns
    return None


def _status(entry: os.DirEntry[str]) -> os.stat_result | None:
    try:
        return entry.stat()
    except OSError:
        return None


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False
