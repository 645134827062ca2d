"""Names of model files: one each, the same at every start.

A file is called by its path below its folder, without the suffix. Where that is taken, the own models folder comes
before other programs' trees and .safetensors before other suffixes; the later file carries in brackets what tells it
apart: ``juggernaut (forge)``, ``juggernaut (gguf)``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from backend.records.places import Place
from backend.records.walk import SUFFIXES, Found


def name_files(files: Sequence[tuple[Place, Found]]) -> list[str]:
    """A name for each file; no two in a folder share one. Places come in the order of their rights."""
    ranked = sorted(range(len(files)), key=lambda i: SUFFIXES.index(files[i][1].suffix))
    ranked.sort(key=lambda i: bool(files[i][0].root))
    names = [""] * len(files)
    taken: set[tuple[str, str]] = set()
    for index in ranked:
        place, found = files[index]
        folders = place.may_hold
        names[index] = next(n for n in _choices(place, found) if not any((folder, n) in taken for folder in folders))
        taken |= {(folder, names[index]) for folder in folders}
    return names


def _choices(place: Place, found: Found) -> Iterator[str]:
    yield found.name
    marks = [mark for mark in (place.root, found.suffix[1:]) if mark]
    for mark in marks:
        yield f"{found.name} ({mark})"
    yield f"{found.name} ({', '.join(marks)})"
    yield from (f"{found.name} ({', '.join(marks)} {number})" for number in range(2, 2**31))
