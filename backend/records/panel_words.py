"""What one word of a stranger's parameters text means for a field, and which word says what a field holds."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from backend.records.hashes import A1111_NOTHING, a1111_hash
from backend.records.panel_text import TextKey
from backend.records.registry import Registry

#: ``files(folder)``: the files of models/``folder``, by the names that they go by here.
Files = Callable[[str], Mapping[str, Path]]
MAX_WORD = 120  # characters of a stranger's value in a sentence
_NAMED = re.compile(r"(.*?)(?: \[([0-9a-f]{8,64})\])?", re.DOTALL)
_UNSET = ("-1", "none", "")  # of numbers: how A1111 writes a slider that is not shown


def meaning(
    row: TextKey, word: str, schema: Mapping[str, Any], registry: Registry, files: Files | None
) -> tuple[Any, str]:
    """The value that a word stands for, None for none; and a sentence, where it is not quite that or none."""
    if (ours := _of_case(row.values, word)) is not None:
        return ours, ""
    if (near := _of_case(row.near, word)) is not None:
        return near, f"{row.key} {word!r} is not here; {near!r} comes near and is taken."
    if "folder" in schema:
        return _file(row, word, files(schema["folder"]) if files else None)
    if "registry" in schema or "enum" in schema:
        return _choice(row, word, schema, registry)
    kind = schema.get("type")
    if kind == "boolean":
        truth = {"true": True, "false": False}.get(word.casefold())
        return truth, "" if truth is not None else f"{row.key} is {word[:MAX_WORD]!r}, neither True nor False."
    if kind in ("integer", "number"):
        return _number(row, word, kind)
    return word, ""


def _of_case(table: Mapping[str, str], word: str) -> str | None:
    return next((ours for theirs, ours in table.items() if theirs.casefold() == word.casefold()), None)


def _choice(row: TextKey, word: str, schema: Mapping[str, Any], registry: Registry) -> tuple[str | None, str]:
    rows = registry.get(schema["registry"], ()) if "registry" in schema else [
        {"name": each, "label": each} for each in schema["enum"]
    ]  # fmt: skip
    wanted = word.casefold()
    for each in rows:
        if wanted in (each["name"].casefold(), each["label"].casefold()):
            return each["name"], ""
    close = _near(word, [*row.values, *(each["label"] for each in rows)])
    return None, f"{row.key} {word[:MAX_WORD]!r} is not here and is left out.{close}"


def _number(row: TextKey, word: str, kind: str) -> tuple[int | float | None, str]:
    if word.casefold() in _UNSET:
        return None, ""
    try:
        value = float(word) if row.scale == 1 else round(float(word) * row.scale, 9)
        whole = round(value)
    except (ValueError, OverflowError):
        return None, f"{row.key} is {word[:MAX_WORD]!r}, which is no number."
    if kind == "number":
        return value, ""
    return whole, "" if whole == value else f"{row.key} is {word}; {whole} is taken."


def _file(row: TextKey, word: str, known: Mapping[str, Path] | None) -> tuple[str | None, str]:
    """The file that ``name [hash]`` means: by its name, else by its hash; other folders than theirs do not count."""
    match = _NAMED.fullmatch(word)
    name, digits = (match[1], match[2]) if match else (word, None)
    if name.casefold() in ("none", ""):
        return None, ""
    if known is None:
        return name, ""
    wanted = _bare(name)
    named = [each for each in known if each.casefold() == name.casefold()]
    named += [each for each in known if _bare(each) == wanted and each not in named]
    if named:
        return named[0], ""
    if digits and digits != A1111_NOTHING:
        for each, path in known.items():
            if a1111_hash(path) == digits[: len(A1111_NOTHING)]:
                return each, f"{row.key} {name[:MAX_WORD]!r} is {each!r} here: the hash {digits} is the same."
    return None, f"{row.key} {name[:MAX_WORD]!r} is not here.{_near(name, known)}"


def _bare(name: str) -> str:
    return name.replace("\\", "/").rpartition("/")[2].casefold()


def _near(word: str, known: Sequence[str] | Mapping[str, Any]) -> str:
    by_case = {_bare(each): each for each in known}
    close = difflib.get_close_matches(_bare(word[:MAX_WORD]), by_case, n=3, cutoff=0.5)
    return f" Near: {', '.join(by_case[each] for each in close)}." if close else ""


def words_for(row: TextKey, value: Any, schema: Mapping[str, Any], hashes: Mapping[str, str]) -> list[str]:
    """The words that mean a field's value; a file goes by its name and, where it is known, its hash."""
    if value is None:
        return []
    same = [theirs for theirs, ours in row.values.items() if ours == value]
    if same or isinstance(value, bool):
        return same or [str(value)]
    if "folder" in schema:
        if not value:
            return ["None"]
        known = hashes.get(f"{schema['folder']}/{value}")
        return [_stem(value) + (f" [{known}]" if known else "")]
    return [
        json.dumps(round(value / row.scale, 9) if row.scale != 1 else value)
        if isinstance(value, int | float)
        else str(value)
    ]


def _stem(name: str) -> str:
    """A1111 calls a file by its name without folders."""
    return name.rpartition("/")[2]
