"""Words that extensions offer while one types: what they are, and a list of very many that is searched quickly."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from backend.errors import BadRequest

MOST_WORDS = 500_000  # of a list
LONGEST = 200  # characters of a word, and of what is typed


@dataclass(frozen=True)
class Word:
    """Something that a prompt may hold; ``fact`` stands beside it, small."""

    text: str
    fact: str = ""


@dataclass(frozen=True)
class WordsSpec:
    """Words for the list under a prompt box.

    Args:
        name: unique within the extension; small letters, digits, ``_``.
        find: ``find(typed, most)``: the best first, at most so many. Called in a worker thread while one types, so it
            must answer at once: one that takes longer than two seconds is given up.
        starts: what has to be typed before, ``"__"`` for instance: ``typed`` is what stands behind it. ``""``: plain
            words; ``typed`` is at least two letters: what stands before the cursor since the last comma or bracket, or
            while nothing is found for that, fewer and fewer of its last words.
        ends: what is put behind the word (``"__"``); only with ``starts``.
    """

    name: str
    find: Callable[[str, int], Iterable[Word]]
    starts: str = ""
    ends: str = ""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_]{0,39}", self.name):
            raise BadRequest(f"{self.name!r:.60} is no name for words.", "Accepted: small letters, digits and _.")
        if any(len(mark) > 8 or re.search(r"[\w\s,()\[\]|:<>\\]", mark.replace("_", "")) for mark in self.marks):
            accepted = "Accepted: up to 8 signs such as __ or @; no letters, spaces, commas, brackets, colons."
            raise BadRequest(f"The words {self.name} cannot begin or end with {self.marks!r}.", accepted)
        if self.ends and not self.starts:
            raise BadRequest(f"The words {self.name} have an end without a start.", "Give starts, too.")

    @property
    def marks(self) -> tuple[str, str]:
        """What stands before and behind a word."""
        return self.starts, self.ends


class WordList:
    """Words in an order, searched by how they or words within them begin; ``find`` is made for a ``WordsSpec``.

    100,000 are searched within a few milliseconds. Capitals count as small letters and ``_`` as a space.

    Args:
        words: the more important first: of those that fit equally well, the earlier ones are found.
    Raises:
        BadRequest: they are more than 500,000.
    """

    def __init__(self, words: Iterable[Word]) -> None:
        self._words: Sequence[Word] = tuple(words)
        if len(self._words) > MOST_WORDS:
            raise BadRequest(f"{len(self._words):,} words are too many.", f"At most {MOST_WORDS:,} can be searched.")
        lines = [f"\n{_plain(word.text)}" for word in self._words]
        self._text = "".join(lines)
        self._ends = list(accumulate(map(len, lines)))

    def __len__(self) -> int:
        """How many there are."""
        return len(self._words)

    def find(self, typed: str, most: int) -> Sequence[Word]:
        """Words that begin so, then those in which a later word does."""
        wanted = _plain(typed)
        found: dict[int, None] = {}
        for mark in ("\n", " "):
            place = self._text.find(mark + wanted)
            while place >= 0 and len(found) < most:
                line = bisect_right(self._ends, place)
                found[line] = None
                place = self._text.find(mark + wanted, self._ends[line])
        return [self._words[line] for line in found]


def _plain(text: str) -> str:
    return " ".join(text.casefold().replace("_", " ").split())
