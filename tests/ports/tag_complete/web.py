"""Tag Complete's web side: completions of what is typed, from the file that the engine's side writes."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query

from webui.api import NotFound, StudioView, hookimpl

from .counts import FILE, Counts


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
