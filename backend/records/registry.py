"""The document by which page, REST and checks know what the engine can do; they never import an engine module.

The engine publishes it when it is up; the last one is kept in the data folder; the one in the package serves the very
first start. Shape: ``{"schema": 1, "samplers": [{"name", "label", ...}], "schedules": [{"name", "label"}]}``.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from backend.errors import BadRequest, unknown_name
from backend.records.files import write_atomically

Registry = Mapping[str, Any]
Kind = Literal["samplers", "schedules"]
REGISTRY_SCHEMA = 1

_CORE = Path(__file__).with_name("core_registry.json")
_WORDS: Mapping[Kind, tuple[str, str]] = {"samplers": ("Sampler", "sampler"), "schedules": ("Schedule", "schedule")}
_log = logging.getLogger(__name__)


def core_registry() -> dict[str, Any]:
    """The samplers and schedules that every Easel has."""
    return json.loads(_CORE.read_text(encoding="utf-8"))


def load_registry(cache: Path) -> dict[str, Any]:
    """The document that the engine published last, or the shipped one if there is none that can be read."""
    try:
        found = json.loads(cache.read_text(encoding="utf-8"))
        if is_registry(found):
            return found
        _log.warning("%s is of another version; the shipped registry is used", cache.name)
    except FileNotFoundError:
        pass
    except (OSError, ValueError, RecursionError) as error:
        _log.warning("%s cannot be read (%s); the shipped registry is used", cache.name, type(error).__name__)
    return core_registry()


def save_registry(cache: Path, registry: Registry) -> None:
    """Keep what the engine published for the next start."""
    write_atomically(cache, json.dumps(registry, ensure_ascii=False, indent=1).encode())


def is_registry(document: object) -> bool:
    """Whether a document has the shape that this version reads."""
    if not isinstance(document, dict) or document.get("schema") != REGISTRY_SCHEMA:
        return False
    lists = [document.get(kind) for kind in _WORDS]
    return all(
        isinstance(rows, list)
        and rows
        and all(isinstance(row, dict) and isinstance(row.get("name"), str) and isinstance(row.get("label"), str)
                for row in rows)
        for rows in lists
    )  # fmt: skip


def registered_name(registry: Registry, kind: Kind, text: str) -> str:
    """The name that a name or label, in any case, stands for: "Euler a" -> "euler_a".

    Raises:
        BadRequest: naming the nearest known one.
    """
    found = find_registered(registry, kind, text)
    if found is None:
        word, field = _WORDS[kind]
        raise BadRequest(unknown_name(word, text, [row["label"] for row in registry[kind]]), field=field)
    return found


def find_registered(registry: Registry, kind: Kind, text: str) -> str | None:
    """As ``registered_name``; ``None`` for what is not known."""
    wanted = _folded(text)
    return next((row["name"] for row in registry[kind] if wanted in _spellings(row)), None)


def label_of(registry: Registry, kind: Kind, name: str) -> str:
    """How a registered name is written for people; the name itself if it is not registered."""
    return next((row["label"] for row in registry[kind] if row["name"] == name), name)


def _spellings(row: Mapping[str, Any]) -> Iterator[str]:
    yield _folded(row["name"])
    yield _folded(row["label"])


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())
