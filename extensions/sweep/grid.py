"""A labelled grid of pictures: column and row titles, values beside them, and what the whole grid is of above it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

MAX_SIDE = 14_000  # pixels of all cells: with their titles they stay below the 16,383 a side that WebP holds
MAX_PIXELS = 120_000_000
_PAPER, _INK, _PALE = (255, 255, 255), (20, 20, 24), (110, 112, 120)
_MOST_LINES, _MOST_CHARACTERS = 6, 400
_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


class Label(NamedTuple):
    """A parameter and its value for people; both empty where nothing varies."""

    axis: str
    value: str


class _Text(NamedTuple):
    lines: tuple[str, ...]
    width: int
    height: int


def draw_grid(
    images: Sequence[Image.Image],
    cells: Mapping[tuple[int, int], int],
    columns: Sequence[Label],
    rows: Sequence[Label],
    title: Label,
    note: Callable[[str], None],
) -> Image.Image:
    """Pictures of ``cells`` (row, column) -> number in ``images``; a cell without one stays white.

    Cells are as large as the largest picture; a grid beyond 14,000 pixels a side, or 120 million in all, is made of
    smaller ones, which ``note`` is told.
    """
    sizes = [images[number].size for number in cells.values()]
    wide, high = max(size[0] for size in sizes), max(size[1] for size in sizes)
    scale = _scale(wide * len(columns), high * len(rows))
    if scale < 1:
        note(f"the pictures in the grid are {scale:.0%} of their size, so that it stays within {MAX_SIDE:,} pixels.")
    wide, high = max(1, int(wide * scale)), max(1, int(high * scale))
    margin = max(1, min(wide, high) // 64)
    fonts = _fonts(wide, high)
    heads = [_wrapped(label.value, fonts[0], wide) for label in columns]
    beside = _room_beside(rows, fonts, wide)
    sides = [_wrapped(label.value, fonts[0], beside) for label in rows]
    top = _wrapped(columns[0].axis, fonts[1], wide * len(columns))
    side = _wrapped(rows[0].axis, fonts[1], beside)
    words = f"{title.axis}: {title.value}" if title.axis else ""
    whole = _wrapped(words, fonts[0], wide * len(columns))
    left = _padded(max(each.width for each in (*sides, side)), margin)
    title_at, axis_at = margin, margin + _padded(whole.height, margin)
    heads_at = axis_at + _padded(max(top.height, side.height), margin)
    cells_at = heads_at + _padded(max(each.height for each in heads), margin)
    size = (left + (wide + margin) * len(columns) + margin, cells_at + (high + margin) * len(rows))
    sheet = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(sheet)
    span = (left, (wide + margin) * len(columns))
    _write(draw, whole, fonts[0], span, title_at, _INK)
    _write(draw, top, fonts[1], span, axis_at, _PALE)
    _write(draw, side, fonts[1], (margin, left - 2 * margin), axis_at, _PALE)
    for column, head in enumerate(heads):
        _write(draw, head, fonts[0], (left + column * (wide + margin), wide), heads_at, _INK)
    for row, text in enumerate(sides):
        middle = cells_at + row * (high + margin) + (high - text.height) // 2
        _write(draw, text, fonts[0], (margin, left - 2 * margin), max(cells_at, middle), _INK)
    for (row, column), number in cells.items():
        image = images[number]
        if scale < 1:
            shrunk = (max(1, int(image.width * scale)), max(1, int(image.height * scale)))
            image = image.resize(shrunk, Image.Resampling.LANCZOS)
        at = (left + column * (wide + margin), cells_at + row * (high + margin))
        sheet.paste(image, (at[0] + (wide - image.width) // 2, at[1] + (high - image.height) // 2))
    return sheet


def _scale(width: int, height: int) -> float:
    """What pictures must shrink by, so that all cells fit."""
    return min(1.0, MAX_SIDE / width, MAX_SIDE / height, (MAX_PIXELS / (width * height)) ** 0.5)


def _fonts(wide: int, high: int) -> tuple[_Font, ...]:
    """Pillow's own font, which is there on every machine: of values, and of the axes' titles."""
    size = max(11, min(wide, high) // 18)
    return ImageFont.load_default(size), ImageFont.load_default(max(10, size * 4 // 5))


def _room_beside(rows: Sequence[Label], fonts: Sequence[_Font], wide: int) -> int:
    """How wide the rows' labels may be: half a cell, or up to a whole one so that no word is broken."""
    words = [
        (word, font) for row in rows for text, font in zip(reversed(row), fonts, strict=True) for word in text.split()
    ]
    longest = max((font.getlength(word[:_MOST_CHARACTERS]) for word, font in words), default=0)
    return max(64, wide // 2, min(wide, math.ceil(longest)))


def _padded(length: int, margin: int) -> int:
    return length + 2 * margin if length else margin


def _wrapped(text: str, font: _Font, width: int) -> _Text:
    """Lines of at most ``width`` pixels; longer words are broken, and what is too much ends with three dots."""
    lines: list[str] = []
    for word in text[:_MOST_CHARACTERS].split():
        joined = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(joined) <= width:
            lines[-1] = joined
            continue
        while font.getlength(word) > width and len(word) > 1:
            fits = next(n for n in range(len(word) - 1, 0, -1) if n == 1 or font.getlength(word[:n]) <= width)
            lines.append(word[:fits])
            word = word[fits:]
            if len(lines) > _MOST_LINES:
                break
        lines.append(word)
        if len(lines) > _MOST_LINES:
            lines = [*lines[: _MOST_LINES - 1], lines[_MOST_LINES - 1][:-3] + "..."]
            break
    if not lines:
        return _Text((), 0, 0)
    return _Text(tuple(lines), round(max(map(font.getlength, lines))), _line_height(font) * len(lines))


def _line_height(font: _Font) -> int:
    box = font.getbbox("Ågj|")
    return round((box[3] - box[1]) * 1.2)


def _write(
    draw: ImageDraw.ImageDraw,
    text: _Text,
    font: _Font,
    span: tuple[int, int],
    top: int,
    colour: tuple[int, int, int],
) -> None:
    """Lines centred over ``span`` (left, width)."""
    for number, line in enumerate(text.lines):
        left = span[0] + (span[1] - font.getlength(line)) / 2
        draw.text((round(left), top + number * _line_height(font)), line, fill=colour, font=font)
