"""Wildcard files: which there are, and their lines. Nothing of Easel: both of its processes read them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

FOLDER = "wildcards"  # in the extension's data folder
MAX_FILES = 20_000


def wildcard_files(folder: Path) -> Mapping[str, Path]:
    """``animal.txt`` and ``sea/fish.txt`` as ``animal`` and ``sea/fish``, in small letters."""
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*.txt"))[:MAX_FILES]:
        found.setdefault(path.relative_to(folder).with_suffix("").as_posix().casefold(), path)
    return found


def options(lines: Iterable[str]) -> Sequence[str]:
    """The lines that are options: not empty, no comments."""
    stripped = (line.strip() for line in lines)
    return [line for line in stripped if line and not line.startswith("#")]
