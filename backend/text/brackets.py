"""Brackets of the prompt language: one prompt's tokens in, its weighted pieces at each step out. Linear time.

``prompt.py`` tells the grammar and what is public; this file has the stack and the rules of a pair of brackets.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from types import MappingProxyType
from typing import Literal

STRONGER = 1.1
MAX_WEIGHT = 10.0
OPENER = MappingProxyType({")": "(", "]": "["})

_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)")
_MEANT_AS_NUMBER = re.compile(r"[+-]?(?:nan|inf(?:inity)?|[0-9][0-9.,]*(?:e[+-]?[0-9]+)?)", re.IGNORECASE)
_FINITE = 1e30


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

    ``colon`` and ``pipe`` say in which place of the parent it stands: how many of its : and | came before.
    """

    __slots__ = (
        *("colon", "colons", "factor", "kind", "last_colon", "number"),
        *("parent", "pipe", "pipes", "role", "when"),
    )

    def __init__(self, number: int, parent: _Group | None, kind: str) -> None:
        self.number = number
        self.parent = parent
        self.kind = kind  # "(", "[" or, for the whole, ""
        self.factor = {"(": STRONGER, "[": 1 / STRONGER, "": 1.0}[kind]
        self.colon = parent.colons if parent else 0
        self.pipe = parent.pipes if parent else 0
        self.colons = self.pipes = 0
        self.last_colon = -1  # index of the last : among the pieces
        self.role: Literal["emphasis", "schedule", "alternate"] = "emphasis"
        self.when = ""

    def shows(self, colon: int, pipe: int, step: int, steps: int) -> bool:
        """Whether what stands at this place inside the brackets is there at a step."""
        if self.role == "emphasis":
            return True
        if self.role == "alternate":
            return pipe == step % (self.pipes + 1)
        side = colon + 1 - self.colons  # [b:when] has only the later side
        return side == (step >= change_step(self.when, steps))


# Plain tuples, because a hostile prompt has 100,000 of them and named ones cost twice as much.
Shown = tuple[str, float, bool]  # text, weight, whether it is BREAK (which has no text)
_Part = tuple[str, _Group, int, int, str]  # text, place (group, colon, pipe), mark: separators and BREAK may be no text


class Scan:
    """One prompt between ANDs, read in one pass over its tokens with an explicit stack of open brackets.

    A bracket becomes a group only once something stands in it; until then it is "(" or "[" on the stack. Brackets that
    are never closed act to the end of what holds them, which is what a group does unless its end says otherwise.
    """

    def __init__(self, tokens: Sequence[str], notes: Notes) -> None:
        self._root = _Group(0, None, "")
        self._groups = [self._root]
        self._parts: list[_Part] = []
        self._stack: list[_Group | str] = [self._root]
        self._current = self._root  # the innermost open group
        self._text: list[str] = []  # text of the current group that is not yet among the parts
        self._counts = {"(": 0, "[": 0}  # open brackets of each kind
        self._skipped = {"(": 0, "[": 0}  # those that were left open inside a closed pair
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

    def shown(self, step: int, steps: int) -> Iterator[Shown]:
        """What is there at a step, in order of the text."""
        visible = [True] * len(self._groups)
        if any(group.role != "emphasis" for group in self._groups):
            for group in self._groups[1:]:  # a parent comes before its children
                parent = group.parent or self._root
                visible[group.number] = visible[parent.number] and parent.shows(group.colon, group.pipe, step, steps)
        for text, group, colon, pipe, mark in self._parts:
            separates = (mark == ":" and group.role == "schedule") or (mark == "|" and group.role == "alternate")
            if not separates and visible[group.number] and group.shows(colon, pipe, step, steps):
                yield text, self._weights[group.number], mark == "BREAK"

    def _products(self) -> list[float]:
        """The weight of each group: its factor times those of the groups around it."""
        products = [1.0]
        for group in self._groups[1:]:
            product = products[group.parent.number if group.parent else 0] * group.factor
            products.append(min(max(product, -_FINITE), _FINITE))  # so that 0 times it is 0
        return [product if abs(product) <= MAX_WEIGHT else bounded(product, self._notes) for product in products]

    def _read(self, tokens: Sequence[str]) -> None:
        counts, stack = self._counts, self._stack
        strays = 0
        for text, mark in zip_longest(tokens[::2], tokens[1::2], fillvalue=""):
            if text:
                self._put(text)
            if mark in counts:
                counts[mark] += 1
                stack.append(mark)
            elif mark in OPENER:
                opener = OPENER[mark]
                if not counts[opener]:
                    self._put(mark)
                    strays += 1
                elif stack[-1] == opener:  # an empty pair
                    stack.pop()
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
        elif mark != "BREAK" and self._stack[-1] is self._root:
            self._put(mark)  # : and | separate only inside brackets
        else:
            self._enter()
            group = self._current
            if mark == ":":
                group.last_colon = len(self._parts)
            self._add("" if mark == "BREAK" else mark, mark)
            group.colons += mark == ":"
            group.pipes += mark == "|"

    def _put(self, text: str) -> None:
        if self._stack[-1] is not self._current:
            self._enter()
        self._text.append(text)

    def _add(self, text: str, mark: str) -> None:
        group = self._current
        self._parts.append((text, group, group.colons, group.pipes, mark))

    def _end_text(self) -> None:
        if self._text:
            self._add("".join(self._text), "")
            self._text.clear()

    def _enter(self) -> None:
        """Make groups of the open brackets that held nothing so far; the innermost becomes the current one."""
        self._end_text()
        stack = self._stack
        place = len(stack)
        while isinstance(stack[place - 1], str):
            place -= 1
        for index in range(place, len(stack)):
            self._current = _Group(len(self._groups), self._current, kind=str(stack[index]))
            self._groups.append(self._current)
            stack[index] = self._current

    def _leave(self, opener: str) -> None:
        """Close the innermost bracket of a kind, and unclosed ones of the other kind within it."""
        kind = ""
        while kind != opener:
            bracket = self._stack.pop()
            if isinstance(bracket, _Group):
                self._end_text()
                self._current = bracket.parent or self._root
                kind = bracket.kind
                if kind == opener:
                    self._finish(bracket)
            else:
                kind = bracket
            self._counts[kind] -= 1
            self._skipped[kind] += kind != opener

    def _finish(self, group: _Group) -> None:
        if group.kind == "[":
            self._finish_square(group)
        elif number := self._take_number(group):
            group.factor = bounded(float(number), self._notes)

    def _finish_square(self, group: _Group) -> None:
        if group.pipes:
            group.role = "alternate"
            group.factor = 1.0
        elif group.colons > 2:
            self._notes.add("[...] with more than two colons has no meaning; it is read as [x], a weaker x.")
        elif number := self._take_number(group):
            group.role = "schedule"
            group.factor = 1.0
            group.when = number

    def _take_number(self, group: _Group) -> str:
        """Remove ``:number`` from the end of a group and return the number; "" if it does not end so."""
        if group.last_colon < 0 or group.last_colon != len(self._parts) - 2:
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
        notes.add(f"A weight lies outside -{MAX_WEIGHT:g} to {MAX_WEIGHT:g} and was limited.")
    return min(max(weight, -MAX_WEIGHT), MAX_WEIGHT)


def change_step(when: str, steps: int) -> int:
    """How many steps pass before a change; 0 to ``steps``."""
    value = float(when)
    is_share = value < 1 or (value == 1 and "." in when)
    done = value * steps + 1e-6 if is_share else value  # the small term: 0.29 * 100 is 28.999...
    return int(min(max(done, 0), steps))
