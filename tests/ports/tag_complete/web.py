"""Tag Complete's web side: completions from the file that the engine's side writes, and from tags.csv."""

from __future__ import annotations

import csv
import functools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query

from webui.api import NotFound, StudioView, Word, WordList, WordsSpec, hookimpl

from .counts import FILE, Counts

TAGS = "tags.csv"


@functools.lru_cache(maxsize=1)
def _read(folder: Path, _changed: int) -> Counts:
    return Counts.read(folder)


def counts_of(folder: Path) -> Counts:
    """What the file holds now; it is read again only when it has changed. Raises ``NotFound`` for a damaged one."""
    file = folder / FILE
    try:
        return _read(folder, file.stat().st_mtime_ns)
    except FileNotFoundError:
        return Counts()
    except ValueError as error:
        raise NotFound(f"Tags cannot be completed: {error}.", "Start Easel again: it puts that file aside.") from None


@functools.lru_cache(maxsize=1)
def _tags(file: Path, _changed: int) -> WordList:
    with file.open(encoding="utf-8", newline="") as lines:
        rows = [row for row in csv.reader(lines) if row and row[0].strip()]
    words = [Word(row[0].replace("_", " "), f"{row[2]} pictures" if len(row) > 2 else "") for row in rows]
    return WordList(words)


def tags_of(folder: Path) -> WordList:
    """The list of tags as sites of pictures publish it: ``tag,category,count``, the most frequent first."""
    file = folder / TAGS
    return _tags(file, file.stat().st_mtime_ns) if file.is_file() else WordList(())


@hookimpl
def register_words(studio: StudioView) -> Sequence[WordsSpec]:
    """What a word may become, below the prompt: what was used before, then what is in the list."""

    def find(typed: str, most: int) -> Iterable[Word]:
        counts = counts_of(studio.data_folder)
        used = counts.suggest(typed, most)
        yield from (Word(row.tag, _uses(row.uses, row.with_model, counts.loaded)) for row in used)
        known = {row.tag for row in used}
        yield from (word for word in tags_of(studio.data_folder).find(typed, most) if word.text not in known)

    return [WordsSpec("tags", find)]


def _uses(uses: int, with_model: int, model: str) -> str:
    told = f"used {uses} time{'' if uses == 1 else 's'}"
    return f"{told}, {with_model} with {model}" if with_model else told


@hookimpl
def register_routes(studio: StudioView) -> APIRouter:
    """What a word may become."""
    router = APIRouter()

    @router.get("/suggest")
    def suggest(
        words: Annotated[str, Query(max_length=200)] = "", most: Annotated[int, Query(ge=1, le=100)] = 10
    ) -> dict[str, Any]:
        counts = counts_of(studio.data_folder)
        return {"model": counts.loaded, "tags": [row._asdict() for row in counts.suggest(words, most)]}

    return router
