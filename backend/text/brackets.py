"""Brackets of the prompt language: one prompt's tokens in, its weighted pieces at each step out. Linear time.

``prompt.py`` tells the grammar and what is public; this file has the stack and the rules of a pair of brackets.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import zip_longest
from types import MappingProxyType
from typing import Literal

STRONGER = 1.1
MAX_WEIGHT = 10.0
OPENER = MappingProxyType({")": "(", "]": "["})
ALL_STEPS = -1  # as bits

_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)")
_MEANT_AS_NUMBER = re.compile(r"[+-]?(?:nan|inf(?:inity)?|[0-9][0-9.,]*(?:e[+-]?[0-9]+)?)", re.IGNORECASE)
_FINITE = 1e30
_FACTORS = {"(": STRONGER, "[": 1 / STRONGER, "": 1.0}
_LIMITED = f"A weight lies outside -{MAX_WEIGHT:g} to {MAX_WEIGHT:g} and was limited."


class Notes:
    """Collects warnings; the same kind twice is one sentence with a count."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._first: dict[str, str] = {}

    def add(self, sentence: str, subject: str = "", count: int = 1) -> None:
        """Note a sentence; ``{}`` in it stands for the subject, of which the first is shown."""
        if count:
            self._counts[sentence] = self._counts.get(sentence, 0) + count
            self._first.setdefault(sentence, subject if len(subject) <= 60 else subject[:57] + "...")

    def sentences(self) -> tuple[str, ...]:
        """Every sentence once, in order of first occurrence."""
        return tuple(
            sentence.replace("{}", self._first[sentence]) + (f" ({count} times)" if count > 1 else "")
            for sentence, count in self._counts.items()
        )


class _Group:
    """A pair of brackets with something in it, or the whole prompt (parent None).

    ``colon`` and ``pipe`` say in which place of the parent it stands: how many of its : and | came before. What few
    groups have stands at the class, because a hostile prompt has 50,000 of them.
    """

    colon = pipe = 0
    colons = pipes = 0
    last_colon = -1  # index of the last : among the pieces
    role: Literal["emphasis", "schedule", "alternate"] = "emphasis"
    when = ""

    def __init__(self, number: int, parent: _Group | None, kind: str) -> None:
        self.number = number
        self.parent = parent
        self.kind = kind  # "(", "[" or, for the whole, ""
        self.factor = _FACTORS[kind]
        if parent is not None and (parent.colons or parent.pipes):
            self.colon, self.pipe = parent.colons, parent.pipes

    def steps_of(self, colon: int, pipe: int, steps: int) -> int:
        """The steps at which what stands at this place inside the brackets is there: a bit each, step 0 the lowest."""
        if self.role == "alternate":
            return _every_nth(pipe, self.pipes + 1, steps)
        if self.role == "schedule":
            return _one_side(self.when, colon == self.colons, steps)  # [b:when] has only the later side
        return ALL_STEPS


@lru_cache(maxsize=4096)
def _every_nth(first: int, period: int, steps: int) -> int:
    return sum(1 << step for step in range(first, steps, period))


@lru_cache(maxsize=4096)
def _one_side(when: str, is_later: bool, steps: int) -> int:
    earlier = (1 << change_step(when, steps)) - 1
    return ALL_STEPS ^ earlier if is_later else earlier


# Plain tuples, because a hostile prompt has 100,000 of them and named ones cost twice as much.
Shown = tuple[str, float, bool, int]  # text, weight, whether it is BREAK (which has no text), steps as bits
_Part = tuple[str, _Group, int, int, str]  # text, place (group, colon, pipe), mark: separators and BREAK may be no text


class Scan:
    """One prompt between ANDs, read in one pass over its tokens with an explicit stack of open brackets.

    A bracket becomes a group only once something stands in it; until then it is a bare "(" or "[". Brackets that
    are never closed act to the end of what holds them, which is what a group does unless its end says otherwise.
    """

    def __init__(self, tokens: Sequence[str], notes: Notes) -> None:
        self._root = _Group(0, None, "")
        self._groups = [self._root]
        self._parts: list[_Part] = []
        self._open = [self._root]  # groups, innermost last ...
        self._bare: list[str] = []  # ... and within them brackets that hold nothing so far
        self._text: list[str] = []  # text of the current group that is not yet among the parts
        self._counts = {"(": 0, "[": 0}  # open brackets of each kind
        self._skipped = {"(": 0, "[": 0}  # those that were left open inside a closed pair
        self._changes = False  # whether any group's place depends on the step
        self._notes = notes
        self._read(tokens)
        self._end_text()
        self._notes.add("A ( is never closed; it acts to the end.", count=self._counts["("] + self._skipped["("])
        self._notes.add("A [ is never closed; it acts to the end.", count=self._counts["["] + self._skipped["["])
        self._weights = self._products()
        self.is_empty = all(not mark and text.isspace() for text, *_, mark in self._parts)

    def at_steps(self, steps: int) -> Iterator[tuple[int, int, tuple[int, ...]]]:
        """(start, until, key) of each stretch of steps that shows one prompt; stretches of equal keys show the same."""
        periods = sorted({group.pipes + 1 for group in self._groups if group.role == "alternate"})
        changes = sorted({change_step(group.when, steps) for group in self._groups if group.role == "schedule"})
        starts = range(steps) if periods else sorted({0, *(change for change in changes if change < steps)})
        for start, until in zip(starts, [*starts[1:], steps], strict=True):
            yield start, until, (bisect_right(changes, start), *(start % period for period in periods))

    def shown(self, steps: int) -> list[Shown]:
        """What is there at any step, in order of the text."""
        weights = self._weights
        if not self._changes:
            return [
                (text, weights[group.number], mark == "BREAK", ALL_STEPS) for text, group, _, _, mark in self._parts
            ]
        inside = [ALL_STEPS]  # the steps at which each group is there
        for group in self._groups[1:]:  # a parent comes before its children
            parent = group.parent or self._root
            bits = inside[parent.number]
            if parent.role != "emphasis":
                bits &= parent.steps_of(group.colon, group.pipe, steps)
            inside.append(bits)
        shown: list[Shown] = []
        for text, group, colon, pipe, mark in self._parts:
            bits = inside[group.number]
            if group.role != "emphasis":
                if mark == (":" if group.role == "schedule" else "|"):
                    continue
                bits &= group.steps_of(colon, pipe, steps)
            if bits:
                shown.append((text, weights[group.number], mark == "BREAK", bits))
        return shown

    def _products(self) -> list[float]:
        """The weight of each group: its factor times those of the groups around it."""
        products = [1.0]
        for group in self._groups[1:]:
            product = products[group.parent.number if group.parent else 0] * group.factor
            if not -_FINITE < product < _FINITE:
                product = math.copysign(_FINITE, product)  # so that 0 times it is 0
            products.append(product)
        if min(products) < -MAX_WEIGHT or max(products) > MAX_WEIGHT:
            self._notes.add(_LIMITED, count=sum(abs(product) > MAX_WEIGHT for product in products))
            products = [min(max(product, -MAX_WEIGHT), MAX_WEIGHT) for product in products]
        return products

    def _read(self, tokens: Sequence[str]) -> None:
        counts, bare = self._counts, self._bare
        strays = 0
        for text, mark in zip_longest(tokens[::2], tokens[1::2], fillvalue=""):
            if text:
                self._put(text)
            if mark in counts:
                counts[mark] += 1
                bare.append(mark)
            elif mark in OPENER:
                opener = OPENER[mark]
                if not counts[opener]:
                    self._put(mark)
                    strays += 1
                elif bare and bare[-1] == opener:  # an empty pair
                    bare.pop()
                    counts[opener] -= 1
                else:
                    self._leave(opener)
            elif mark:
                self._mark(mark)
        self._notes.add("A closing bracket closes nothing and is read as text.", count=strays)

    def _mark(self, mark: str) -> None:
        if mark[0] == "\\":
            self._put(mark[1:])
        elif mark == "AND":
            self._notes.add("AND inside brackets, or where prompts cannot be joined, is an ordinary word.")
            self._put(mark)
        elif mark[0] == "<":
            self._notes.add("{} has no effect here and was left out of the prompt.", mark)
        elif mark != "BREAK" and len(self._open) == 1 and not self._bare:
            self._put(mark)  # : and | separate only inside brackets
        else:
            self._end_text()
            if self._bare:
                self._enter()
            group, place = self._open[-1], len(self._parts)
            self._parts.append(("" if mark == "BREAK" else mark, group, group.colons, group.pipes, mark))
            if mark == ":":
                group.last_colon = place
                group.colons += 1
            elif mark == "|":
                group.pipes += 1

    def _put(self, text: str) -> None:
        if self._bare:
            self._end_text()
            self._enter()
        self._text.append(text)

    def _end_text(self) -> None:
        if self._text:
            group = self._open[-1]
            self._parts.append(("".join(self._text), group, group.colons, group.pipes, ""))
            self._text = []

    def _enter(self) -> None:
        """Make groups of the brackets that held nothing so far."""
        groups, parent = self._groups, self._open[-1]
        for kind in self._bare:
            parent = _Group(len(groups), parent, kind)
            groups.append(parent)
            self._open.append(parent)
        self._bare.clear()

    def _leave(self, opener: str) -> None:
        """Close the innermost bracket of a kind, and unclosed ones of the other kind within it."""
        kind = ""
        while kind != opener:
            if self._bare:
                kind = self._bare.pop()
            else:
                if self._text:
                    self._end_text()
                group = self._open.pop()
                kind = group.kind
                if kind == opener:
                    self._finish(group)
            self._counts[kind] -= 1
            if kind != opener:
                self._skipped[kind] += 1

    def _finish(self, group: _Group) -> None:
        if group.kind == "[":
            self._finish_square(group)
        elif group.colons and (number := self._take_number(group)):
            group.factor = bounded(float(number), self._notes)

    def _finish_square(self, group: _Group) -> None:
        if group.pipes:
            group.role = "alternate"
            self._changes = True
            group.factor = 1.0
        elif group.colons > 2:
            self._notes.add("[...] with more than two colons has no meaning; it is read as [x], a weaker x.")
        elif group.colons and (number := self._take_number(group)):
            group.role = "schedule"
            self._changes = True
            group.factor = 1.0
            group.when = number

    def _take_number(self, group: _Group) -> str:
        """Remove ``:number`` from the end of a group and return the number; "" if it does not end so."""
        if group.last_colon != len(self._parts) - 2:
            return ""
        text, holder, *_ = self._parts[-1]
        number = read_number(text, self._notes) if holder is group else ""
        if number:
            del self._parts[-2:]
            group.colons -= 1
        return number


def read_number(written: str, notes: Notes) -> str:
    """The number as written, or "" with a note where one was meant (nan, 1e9, 1,3) or without (a word)."""
    written = written.strip()
    if _NUMBER.fullmatch(written):
        return written
    if _MEANT_AS_NUMBER.fullmatch(written):
        notes.add("{} is not a number that can be used here; it is read as text.", repr(written))
    return ""


def bounded(weight: float, notes: Notes) -> float:
    """A weight within -10 to 10."""
    if abs(weight) > MAX_WEIGHT:
        notes.add(_LIMITED)
    return min(max(weight, -MAX_WEIGHT), MAX_WEIGHT)


def change_step(when: str, steps: int) -> int:
    """How many steps pass before a change; 0 to ``steps``."""
    value = float(when)
    is_share = value < 1 or (value == 1 and "." in when)
    done = value * steps + 1e-6 if is_share else value  # the small term: 0.29 * 100 is 28.999...
    return int(min(max(done, 0), steps))
