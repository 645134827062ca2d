"""From a prompt with words to be filled in to a tree, and from the tree to texts: drawn, or all of them one by one.

    {a|b}  {2::a|b}              one of them, a twice as often
    {2$$a|b|c}  {1-2$$ and $$..} two different ones with ", " between; one or two with " and "
    __animal__  __sea/*__        a line of a file, see ``wildcards.py``
    \\{ \\} \\|  \\__               the character itself

Texts are of linear size and time in the prompt's length: braces without a partner are text, nesting is bounded, and
what a wildcard holds is read once. A ``|`` within ``[...]`` of a variant belongs to the core's ``[a|b]``.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from random import Random
from typing import NamedTuple, TypeVar

from backend.api import BadRequest

MAX_NESTING = 40
MAX_TEXT = 100_000  # characters: the longest prompt
MAX_VISITS = 200_000  # nodes visited for one text
MAX_PICKED = 100  # of {n$$...}
MAX_HEIGHT = 2 * MAX_NESTING  # of a tree, where wildcards name wildcards
SEPARATOR = ", "
T = TypeVar("T")

_MARKS = re.compile(r"\\.|__|[{}|\[\]]", re.DOTALL)
_WILDCARD = re.compile(r"__(?!_)((?:(?!__)[\w\-./*?\[\] ])+)__")
_BOUND = re.compile(r"\s*(\d{1,4})?(-)?(\d{1,4})?\s*\$\$(?:([^{}|$]*)\$\$)?")
WEIGHT = re.compile(r"\s*(\d{1,9}(?:\.\d{0,9})?|\.\d{1,9})::")
_TAG = re.compile(r"<[A-Za-z]\w*:[^<>]*$")
_LONE = re.compile(r"(?<!\\)[{}]")
_FOREIGN = re.compile(r"(?<!\\)[$%]\{")  # variables and wrappers of sd-dynamic-prompts


class Budget:
    """What is left to be spent on one text."""

    def __init__(self) -> None:
        self.visits = 0
        self.length = 0

    def spend(self, length: int) -> None:
        """Raises ``BadRequest`` when a text grows beyond what any prompt may be."""
        self.visits += 1
        self.length += length
        if self.length > MAX_TEXT or self.visits > MAX_VISITS:
            raise BadRequest(
                f"The prompt's wildcards grow beyond {MAX_TEXT:,} characters.",
                "Wildcards that name each other many times do that; shorten one of them.",
                field="prompt",
            )


@dataclass(frozen=True, eq=False)
class Literal:
    """Words as they are."""

    text: str
    count: int = 1
    height: int = 0

    def draw(self, _rng: Random, out: list[str], budget: Budget) -> None:
        """Append the words."""
        budget.spend(len(self.text))
        out.append(self.text)

    def nth(self, _number: int, out: list[str], budget: Budget) -> None:
        """Append the words."""
        budget.spend(len(self.text))
        out.append(self.text)


@dataclass(frozen=True, eq=False)
class Series:
    """One part after the other."""

    parts: tuple[Node, ...]

    @cached_property
    def height(self) -> int:
        """How many are within one another."""
        return 1 + max((part.height for part in self.parts), default=0)

    @cached_property
    def count(self) -> int:
        """How many texts it stands for."""
        return math.prod(part.count for part in self.parts)

    def draw(self, rng: Random, out: list[str], budget: Budget) -> None:
        """Append one text at random."""
        budget.spend(0)
        for part in self.parts:
            part.draw(rng, out, budget)

    def nth(self, number: int, out: list[str], budget: Budget) -> None:
        """Append the text ``number``; the last part changes fastest."""
        budget.spend(0)
        places: list[int] = []
        for part in reversed(self.parts):
            number, place = divmod(number, part.count)
            places.append(place)
        for part, place in zip(self.parts, reversed(places), strict=True):
            part.nth(place, out, budget)


class Option(NamedTuple):
    """One of several, and how often it is drawn beside the others."""

    node: Node
    weight: float = 1.0


@dataclass(frozen=True, eq=False)
class Choice:
    """``least`` to ``most`` different options, in their order when all are enumerated, in any when they are drawn."""

    options: tuple[Option, ...]
    least: int = 1
    most: int = 1
    separator: str = SEPARATOR

    @cached_property
    def height(self) -> int:
        """How many are within one another."""
        return 1 + max((option.node.height for option in self.options), default=0)

    @property
    def _possible(self) -> range:
        usable = len(self._usable)
        return range(min(self.least, usable), min(self.most, usable) + 1)

    @cached_property
    def _usable(self) -> tuple[Option, ...]:
        return tuple(option for option in self.options if option.weight > 0)

    @cached_property
    def _sums(self) -> list[float]:
        return list(accumulate(option.weight for option in self._usable))

    @cached_property
    def _ways(self) -> list[list[int]]:
        """[from option][how many are still to be picked] -> texts; see ``nth``."""
        most = self._possible[-1]
        rows = [[1, *[0] * most]]
        for option in reversed(self._usable):
            after = rows[-1]
            rows.append([1, *(after[k] + option.node.count * after[k - 1] for k in range(1, most + 1))])
        return rows[::-1]

    @cached_property
    def count(self) -> int:
        """How many texts it stands for."""
        return sum(self._ways[0][k] for k in self._possible)

    def draw(self, rng: Random, out: list[str], budget: Budget) -> None:
        """Append a text at random: weights say which, none twice."""
        budget.spend(0)
        wanted, taken = rng.choice(self._possible), dict[int, None]()
        if wanted:
            taken[min(bisect_right(self._sums, rng.random() * self._sums[-1]), len(self._sums) - 1)] = None
        while len(taken) < wanted:
            left = [n for n in range(len(self._usable)) if n not in taken]
            taken[rng.choices(left, [self._usable[n].weight for n in left])[0]] = None
        self._join(list(taken), lambda n: self._usable[n].node.draw(rng, out, budget), out, budget)

    def nth(self, number: int, out: list[str], budget: Budget) -> None:
        """Append the text ``number`` of all combinations of options, fewest first."""
        budget.spend(0)
        wanted = next(k for k in self._possible if number < self._ways[0][k] or k == self._possible[-1])
        number -= sum(self._ways[0][k] for k in self._possible if k < wanted)
        taken: list[tuple[int, int]] = []
        for place, option in enumerate(self._usable):
            if len(taken) == wanted:
                break
            rest = self._ways[place + 1][wanted - len(taken) - 1]
            if number < option.node.count * rest:
                own, number = divmod(number, rest)
                taken.append((place, own))
            else:
                number -= option.node.count * rest
        self._join(taken, lambda pair: self._usable[pair[0]].node.nth(pair[1], out, budget), out, budget)

    def _join(self, taken: Sequence[T], append: Callable[[T], None], out: list[str], budget: Budget) -> None:
        for number, each in enumerate(taken):
            if number:
                budget.spend(len(self.separator))
                out.append(self.separator)
            append(each)


Node = Literal | Series | Choice
FindWildcard = Callable[[str, bool], "Node | None"]


def has_words(text: str) -> bool:
    """Whether there may be anything to fill in."""
    return "{" in text or "__" in text


def drawn(node: Node, rng: Random) -> str:
    """A text at random."""
    out: list[str] = []
    node.draw(rng, out, Budget())
    return "".join(out)


def enumerated(node: Node, number: int) -> str:
    """The text ``number`` of ``node.count``."""
    out: list[str] = []
    node.nth(number, out, Budget())
    return "".join(out)


def read_template(text: str, find: FindWildcard, depth: int = 0) -> Node:
    """The tree of a text.

    Args:
        find: a wildcard's choice by name; with False as its second argument None for one that is not there.
        depth: nesting around it, where it is a line of a wildcard.
    Raises:
        BadRequest: nested too deep, a wildcard that is not there, what only sd-dynamic-prompts understands.
    """
    foreign = _FOREIGN.search(text)
    if foreign is not None:
        raise BadRequest(
            f"The prompt holds {text[foreign.start() : foreign.start() + 20]!r}: variables and wrappers are not known.",
            "Use a wildcard file instead, or write \\{ for a brace.",
            field="prompt",
        )
    return _Reader(text, find, depth).read()


@dataclass
class _Frame:
    """A ``{`` that is open: its options so far and the parts of the one at hand."""

    bound: re.Match[str] | None = None
    weight: float = 1.0
    options: list[Option] = field(default_factory=list)
    parts: list[Node] = field(default_factory=list)
    brackets: int = 0  # of the core's that are open in the option at hand

    def end_option(self) -> None:
        self.options.append(Option(_series(self.parts), self.weight))
        self.parts, self.brackets = [], 0


class _Reader:
    """One pass over the text with a stack of open braces; which braces have a partner is known before."""

    def __init__(self, text: str, find: FindWildcard, depth: int) -> None:
        self.text, self.find, self.depth = text, find, depth
        self.marks = [match for match in _MARKS.finditer(text) if match[0][0] != "\\"]
        self.partners = _partners(text, self.marks)

    def read(self) -> Node:
        frames = [_Frame()]
        at = 0  # text before it is in a frame
        for match in self.marks:
            here, mark, frame = match.start(), match[0], frames[-1]
            if here < at or (mark != "__" and len(frames) == 1 and here not in self.partners):
                continue  # within a wildcard's name or a variant's head; or nothing but text
            if mark == "__":
                at = self._wildcard(frame, at, here)
            elif mark == "{" and here in self.partners:
                self._words(frame, at, here)
                frames.append(_Frame(_BOUND.match(self.text, here + 1)))
                if len(frames) + self.depth > MAX_NESTING:
                    hint = "Take some of them apart."
                    raise BadRequest(f"Braces are nested more than {MAX_NESTING} deep.", hint, field="prompt")
                bound = frames[-1].bound
                at = self._weight(frames[-1], bound.end() if bound else here + 1)
            elif mark == "}" and here in self.partners:
                self._words(frame, at, here)
                frame.end_option()
                frames.pop()
                frames[-1].parts.append(self._choice(frame))
                at = here + 1
            elif mark in "[]" and here in self.partners:
                frame.brackets += 1 if mark == "[" else -1
            elif mark == "|" and len(frames) > 1 and not frame.brackets:
                self._words(frame, at, here)
                frame.end_option()
                at = self._weight(frame, here + 1)
        self._words(frames[0], at, len(self.text))
        return _series(frames[0].parts)

    def _words(self, frame: _Frame, start: int, end: int) -> None:
        """Text as it is; braces without a partner are escaped, so that filled-in text is never filled in again."""
        if end > start:
            frame.parts.append(Literal(_LONE.sub(r"\\\g<0>", self.text[start:end])))

    def _wildcard(self, frame: _Frame, at: int, here: int) -> int:
        """Takes the wildcard that begins at ``here``, if one does; tells until where the text is read."""
        text, match = self.text, _WILDCARD.match(self.text, here)
        if match is None:
            return at
        around = text[max(0, here - 1) : here] + text[match.end() : match.end() + 1]
        is_part = bool(re.search(r"\w", around)) or bool(_TAG.search(text, max(0, here - 300), here))
        node = self.find(match[1].strip(), not is_part)
        if node is None:
            return at
        self._words(frame, at, here)
        frame.parts.append(node)
        return match.end()

    def _weight(self, frame: _Frame, at: int) -> int:
        match = WEIGHT.match(self.text, at)
        frame.weight = float(match[1]) if match else 1.0
        return match.end() if match else at

    def _choice(self, frame: _Frame) -> Node:
        options, bound = tuple(frame.options), frame.bound
        if bound is None:
            return choice_of(options)
        inner = options[0].node
        if len(options) == 1 and isinstance(inner, Choice) and (inner.least, inner.most) == (1, 1):
            options = inner.options  # {2$$__animal__}: two lines of it
        first, dash, last, separator = bound.groups()
        least = int(first) if first else 1
        most = int(last) if last else min(len(options), MAX_PICKED) if dash else least
        if max(least, most) > MAX_PICKED or least > most:
            hint = f"Write {{2$$a|b|c}} or {{1-2$$a|b|c}}, with at most {MAX_PICKED}."
            raise BadRequest(f"{bound[0].strip()} cannot be picked.", hint, field="prompt")
        return choice_of(options, least, most, SEPARATOR if separator is None else separator)


def choice_of(options: Sequence[Option], least: int = 1, most: int = 1, separator: str = SEPARATOR) -> Choice:
    """A choice; raises ``BadRequest`` where nothing can be chosen, or wildcards name each other too deep."""
    made = Choice(tuple(options), least, most, separator)
    if not any(option.weight > 0 for option in options):
        raise BadRequest("A choice has no option whose weight is above 0.", "Give one a weight.", field="prompt")
    if made.height > MAX_HEIGHT:
        hint = "Take some of them apart."
        raise BadRequest(f"Wildcards name each other more than {MAX_HEIGHT} deep.", hint, field="prompt")
    return made


def _series(parts: Sequence[Node]) -> Node:
    return parts[0] if len(parts) == 1 else Series(tuple(parts)) if parts else Literal("")


def _partners(text: str, marks: Sequence[re.Match[str]]) -> set[int]:
    """Where braces and brackets stand that have a partner; a bracket's lies within the same braces."""
    paired: set[int] = set()
    waiting: list[tuple[str, int]] = []
    braces = 0
    for match in marks:
        mark, here = match[0], match.start()
        if mark == "[" or (mark == "{" and text[here : here + 2] != "{}"):
            waiting.append((mark, here))
            braces += mark == "{"
        elif mark == "]" and waiting and waiting[-1][0] == "[":
            paired |= {waiting.pop()[1], here}
        elif mark == "}" and braces and text[here - 1 : here + 1] != "{}":
            while waiting[-1][0] != "{":
                waiting.pop()
            paired |= {waiting.pop()[1], here}
            braces -= 1
    return paired
