"""What lies beside a model file: notes of A1111's and other programs' JSON files, as label and plain text.

Everything in them is a stranger's: it is cut to a length and told as text only.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NamedTuple

MAX_FILE = 1_000_000  # bytes
MAX_TEXT = 4_000  # characters
MAX_WORDS = 50  # entries of a list


class Note(NamedTuple):
    """One thing that a sidecar says."""

    label: str
    text: str


#: Where a note stands -> its label: A1111's name.json, then Civitai's answers as other programs keep them.
_ROWS: Sequence[tuple[tuple[str, ...], str]] = (
    (("description",), "Description"),
    (("activation text",), "Activation text"),
    (("preferred weight",), "Preferred weight"),
    (("negative text",), "Negative prompt"),
    (("sd version",), "Made for"),
    (("notes",), "Notes"),
    (("model", "name"), "Model"),
    (("model_name",), "Model"),
    (("name",), "Version"),
    (("baseModel",), "Made for"),
    (("base_model",), "Made for"),
    (("trainedWords",), "Activation text"),
    (("civitai", "trainedWords"), "Activation text"),
    (("modelDescription",), "Description"),
)


def notes_of(files: Sequence[str]) -> list[Note]:
    """The notes in these JSON files, each once, in the order of the rows; a file that is none tells nothing."""
    told = [value for file in files if (value := _read(Path(file))) is not None]
    notes = [Note(label, text) for keys, label in _ROWS for value in told if (text := _text(_at(value, keys)))]
    return list(dict.fromkeys(notes))


def hint_of(model: Path) -> Path | None:
    """The ``.yaml`` beside a checkpoint, which in A1111's time said how it was trained; None if there is none."""
    hint = model.with_suffix(".yaml")
    return hint if hint.is_file() else None


def _read(file: Path) -> dict[str, Any] | None:
    try:
        if file.stat().st_size > MAX_FILE:
            return None
        value = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _at(value: Any, keys: tuple[str, ...]) -> Any:
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _text(value: Any) -> str:
    if isinstance(value, list):
        value = ", ".join(str(word) for word in value[:MAX_WORDS] if isinstance(word, str | int | float))
    if isinstance(value, bool) or not isinstance(value, str | int | float) or value in ("", 0):
        return ""
    text = str(value)
    if "<" in text:
        text = "".join(_Words(text))
    text = re.sub(r"[ \t]+", " ", re.sub(r"\s*\n\s*", "\n", text)).strip()
    return text[:MAX_TEXT].encode("utf-8", "replace").decode()


class _Words(HTMLParser):
    """The words of a description that was written as HTML; paragraphs begin on a new line."""

    _BREAKS = frozenset({"p", "br", "li", "div", "h1", "h2", "h3", "h4"})

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self._found: list[str] = []
        self.feed(text[: 4 * MAX_TEXT])
        self.close()

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def handle_starttag(self, tag: str, attrs: object) -> None:  # noqa: ARG002 - the parser's own signature
        """A new paragraph, or nothing."""
        if tag in self._BREAKS:
            self._found.append("\n")

    def handle_data(self, data: str) -> None:
        """Words."""
        self._found.append(data)
