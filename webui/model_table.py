"""``easel models`` as text: a table, and below each file what is worth knowing of it."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

HEAD = ("NAME", "KIND", "MADE FOR", "PRECISION", "SIZE")
WIDTH = 110  # of the lines below a file
_FAMILIES = {"sdxl": "SDXL", "sdxl_refiner": "SDXL", "sd1": "SD1.5", "sd2": "SD2", "sd3": "SD3"}
_INDENT = "      "

Model = Mapping[str, Any]  # as ``model_facts.model_json`` tells it


def model_lines(models: Sequence[Model]) -> list[str]:
    """A row for each file, by folder; below it why it cannot be used, what was noticed, and what is to be answered."""
    rows = [_row(model) for model in models]
    widths = [max(len(row[i]) for row in [HEAD, *rows]) for i in range(len(HEAD))]
    lines = [_line(HEAD, widths)]
    for folder, group in groupby(zip(models, rows, strict=True), key=lambda pair: pair[0]["folder"]):
        lines.append(f"{folder}/")
        for model, row in group:
            lines.append(_line(row, widths))
            for text in _remarks(model):
                lines += textwrap.wrap(text, WIDTH, initial_indent=_INDENT, subsequent_indent=_INDENT + "  ")
    return lines


def _row(model: Model) -> tuple[str, ...]:
    made_for = _FAMILIES.get(model["family"], model["family"]) or model["made_for"] or "-"
    return (
        f"  {model['name']}",
        model["variant"] or model["kind"] or "-",
        made_for,
        model["precision"] or "-",
        _size(model["bytes"]),
    )


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()


def _remarks(model: Model) -> Iterator[str]:
    if model["sentence"]:
        yield model["sentence"]
    yield from model["notes"]
    for question in model["questions"]:
        if question["answer"] is not None:
            yield f"You said: {question['answer']}."
        elif question["asks"]:
            options = " / ".join(question["options"])
            yield f"? {options}: taken for {question['assumed']} until you answer in the page. {question['sentence']}"


def _size(count: int) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 2**10:.0f} KiB" if count >= 2**10 else f"{count} bytes"
