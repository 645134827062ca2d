"""The prompt language: from what a person typed to weighted pieces of text, step by step. Strings only, linear time.

    (x) [x]           1.1 times stronger, weaker; nested brackets multiply; (x:1.3) by that factor
    [a:b:when]        a, then b; [a:when] only from then on, [a::when] only until then; below 1 (or "1.0") ``when`` is
                      a share of the steps, otherwise the number of steps done before the change
    [a|b|c]           one after another, changing at each step
    BREAK             the following starts a new chunk of 75 tokens
    a AND b:0.5       two prompts whose effects are added with weights (where the caller allows it)
    \\( \\[ \\: \\| \\\\ \\< \\{ \\_   the character itself

What is written wrongly is read as text, with a warning; nothing raises. Two places differ from A1111 on purpose: a
change at step n comes after exactly n steps (there after n + 1), and a backslash before any other character stays.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

from backend.formats.embeddings import EmbeddingInfo
from backend.text.brackets import OPENER, Notes, Scan, Shown, bounded, read_number

MAX_TOKENS = 3000  # of a prompt; they lengthen what every attention layer reads
MAX_PARTS = 16  # each AND part is one more pass of the network at every step

_MARKS = re.compile(r"(\\[\\()\[\]:|<>{}_]|[()\[\]:|]|<(?i:lora|lyco|hypernet):[^<>]*>|\bBREAK\b|\bAND\b)")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")


class Piece(NamedTuple):
    """A run of text with one weight in [-10, 10]; ``embedding``: what the text names, see ``embeddings.py``."""

    text: str
    weight: float
    embedding: EmbeddingInfo | None = None


@dataclass(frozen=True)
class ParsedPrompt:
    """What an encoder reads at one step: at least one chunk, split where BREAK stood; hashable, so a cache key."""

    chunks: tuple[tuple[Piece, ...], ...]

    @property
    def text(self) -> str:
        """The words without weights, chunks joined by a space."""
        return " ".join("".join(piece.text for piece in chunk) for chunk in self.chunks)

    @property
    def is_weighted(self) -> bool:
        """Whether any piece has another weight than 1."""
        return any(piece.weight != 1.0 for chunk in self.chunks for piece in chunk)


Schedule = tuple[tuple[int, ParsedPrompt], ...]


@dataclass(frozen=True)
class PromptPart:
    """One of the prompts that AND joins.

    Attributes:
        weight: in [-10, 10].
        schedule: (until, prompt) with ``until`` rising to the number of steps: the prompt serves the steps (counted
            from 0) below ``until`` that no earlier entry serves.
    """

    weight: float
    schedule: Schedule

    def at(self, step: int) -> ParsedPrompt:
        """The prompt of a step, counted from 0; later steps than planned get the last one."""
        place = bisect_right(self.schedule, step, key=lambda entry: entry[0])
        return self.schedule[min(place, len(self.schedule) - 1)][1]


@dataclass(frozen=True)
class PromptPlan:
    """A whole prompt: at least one part, and sentences on what has no effect or was read otherwise than written."""

    parts: tuple[PromptPart, ...]
    warnings: tuple[str, ...] = ()

    @property
    def prompts(self) -> tuple[ParsedPrompt, ...]:
        """Every different prompt that some step needs, in order of first use; at most parts x steps."""
        return tuple(dict.fromkeys(prompt for part in self.parts for _, prompt in part.schedule))


def parse_prompt(text: str, steps: int, *, compose: bool = True) -> PromptPlan:
    """Read a prompt for a run of so many steps.

    Args:
        text: anything, lone surrogates and control characters included.
        steps: at least 1.
        compose: whether AND joins prompts; otherwise it is a word (negative prompts, families that cannot).
    """
    notes = Notes()
    tokens = _MARKS.split(clean_text(text, notes))  # text at even places, marks at odd ones
    prompts: Sequence[tuple[Sequence[str], float]] = [(tokens, 1.0)]
    if compose and "AND" in tokens and len(split := _split_at_and(tokens)) > 1:
        if len(split) > MAX_PARTS:
            notes.add(f"AND joins {len(split)} prompts; only the first {MAX_PARTS} are used.")
        prompts = [_own_weight(part, notes) for part in split[:MAX_PARTS]]
    scans = [(Scan(part, notes), weight) for part, weight in prompts]
    filled = [(scan, weight) for scan, weight in scans if not scan.is_empty]
    if 0 < len(filled) < len(scans):
        notes.add("A prompt beside AND is empty and was left out.")
    parts = tuple(PromptPart(weight, _schedule(scan, steps)) for scan, weight in filled or scans[:1])
    return PromptPlan(parts, notes.sentences())


def merge_schedules(*schedules: Schedule) -> tuple[tuple[int, tuple[ParsedPrompt, ...]], ...]:
    """Several encoders' schedules of one run as one: (until, one prompt for each); at most as many entries as steps."""
    ends = sorted({until for schedule in schedules for until, _ in schedule})
    parts = [PromptPart(1.0, schedule) for schedule in schedules]
    return tuple((until, tuple(part.at(until - 1) for part in parts)) for until in ends)


def clean_text(text: str, notes: Notes | None = None) -> str:
    """Text that every tokenizer takes: surrogate pairs joined, lone ones replaced, control characters dropped."""
    cleaned = text
    if _SURROGATE.search(cleaned):
        cleaned = cleaned.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    cleaned = _CONTROL.sub("", cleaned)
    if notes is not None and cleaned != text:
        notes.add("The prompt holds characters that are no text; they were left out or replaced.")
    return cleaned


def _schedule(scan: Scan, steps: int) -> Schedule:
    """The prompt of each step, equal neighbours joined; steps that show the same are read once."""
    known: dict[tuple[int, ...], ParsedPrompt] = {}
    schedule: list[tuple[int, ParsedPrompt]] = []
    shown = scan.shown(steps)
    for start, until, key in scan.at_steps(steps):
        if key not in known:
            bit = 1 << start
            known[key] = _chunked(each for each in shown if each[3] & bit)
        if schedule and schedule[-1][1] == known[key]:
            schedule.pop()
        schedule.append((until, known[key]))
    return tuple(schedule)


def _chunked(shown: Iterable[Shown]) -> ParsedPrompt:
    """Join neighbours of the same weight and split at BREAK; a BREAK at the end starts nothing.

    Ends behind so many pieces that no encoder reads on: each of them is a token at least.
    """
    chunks: list[list[Piece]] = [[]]
    pieces = 0
    for (weight, is_break), run in groupby(shown, itemgetter(1, 2)):
        if is_break:
            chunks.extend([] for _ in run)
            continue
        text = "".join(map(itemgetter(0), run))
        chunks[-1].append(Piece(text, weight))
        pieces += not text.isspace()
        if pieces > MAX_TOKENS:
            break
    while len(chunks) > 1 and all(piece.text.isspace() for piece in chunks[-1]):
        chunks.pop()
    return ParsedPrompt(tuple(map(tuple, chunks)))


def _own_weight(tokens: Sequence[str], notes: Notes) -> tuple[Sequence[str], float]:
    """A prompt's tokens without the ``:number`` at their end, and that number."""
    if len(tokens) >= 3 and tokens[-2] == ":" and (number := read_number(tokens[-1], notes)):
        return tokens[:-2], bounded(float(number), notes)
    return tokens, 1.0


def _split_at_and(tokens: list[str]) -> list[list[str]]:
    """Split tokens at each AND that no closed pair of brackets holds; an unclosed one ends with its prompt."""
    paired = _paired_brackets(tokens)
    parts: list[list[str]] = []
    depth = start = 0
    for index in range(1, len(tokens), 2):
        mark = tokens[index]
        if index in paired:
            depth += -1 if mark in OPENER else 1
        elif mark == "AND" and depth == 0:
            parts.append(tokens[start:index])
            start = index + 1
    return [*parts, tokens[start:]]


def _paired_brackets(tokens: list[str]) -> set[int]:
    """Indices of brackets that have a partner, by the rule of ``_Scan``: a closing one skips unclosed inner ones."""
    paired: set[int] = set()
    waiting: list[int] = []
    counts = {"(": 0, "[": 0}
    for index in range(1, len(tokens), 2):
        mark = tokens[index]
        if mark in counts:
            counts[mark] += 1
            waiting.append(index)
        elif mark in OPENER and counts[OPENER[mark]]:
            partner = waiting.pop()
            while tokens[partner] != OPENER[mark]:
                counts[tokens[partner]] -= 1
                partner = waiting.pop()
            counts[tokens[partner]] -= 1
            paired |= {partner, index}
    return paired
