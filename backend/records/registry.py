"""The document by which page, REST and checks know what the engine can do; they never import an engine module.

The engine publishes it when it is up; the last one is kept in the data folder; the one in the package serves the very
first start. Shape: ``{"schema": 1, "samplers": [{"name", "label", ...}], "schedules": [{"name", "label"}]}``.
"""

from __future__ import annotations

import json
import logging
import re
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
    """The name that a name or label stands for, in any case and with any of space, - and _: "Euler a" -> "euler_a".

    Raises:
        BadRequest: naming the nearest known one; or the two, where a schedule stands behind the sampler.
    """
    found = find_registered(registry, kind, text)
    if found is None:
        word, field = _WORDS[kind]
        if kind == "samplers" and (both := sampler_and_schedule(registry, text)):
            sampler, schedule = label_of(registry, "samplers", both[0]), label_of(registry, "schedules", both[1])
            raise BadRequest(
                f"Sampler {text!r} is a sampler and a schedule.",
                f"Write sampler {sampler!r} and schedule {schedule!r}.",
                field=field,
            )
        raise BadRequest(unknown_name(word, text, [row["label"] for row in registry[kind]]), field=field)
    return found


def find_registered(registry: Registry, kind: Kind, text: str) -> str | None:
    """As ``registered_name``; ``None`` for what is not known."""
    wanted = _folded(text)
    return next((row["name"] for row in registry[kind] if wanted in _spellings(row)), None)


def sampler_and_schedule(registry: Registry, text: str) -> tuple[str, str] | None:
    """The two that A1111 wrote in one before 1.9, "DPM++ 2M Karras"; None if it is not such a text."""
    words = _folded(text)
    for row in registry["schedules"]:
        for spelling in _spellings(row):
            if words.endswith(f" {spelling}"):
                sampler = find_registered(registry, "samplers", words.removesuffix(spelling))
                if sampler is not None:
                    return sampler, str(row["name"])
    return None


def label_of(registry: Registry, kind: Kind, name: str) -> str:
    """How a registered name is written for people; the name itself if it is not registered."""
    return next((row["label"] for row in registry[kind] if row["name"] == name), name)


def _spellings(row: Mapping[str, Any]) -> Iterator[str]:
    yield _folded(row["name"])
    yield _folded(row["label"])


def _folded(text: str) -> str:
    return " ".join(re.split(r"[\s_-]+", text.casefold().strip()))
