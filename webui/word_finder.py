"""Extensions asked for words while one types: watched as their hooks are, given up soon, and checked."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import TimeoutError as NoResult
from itertools import islice

from webui.hook_calls import HookTimeout, Watch, within
from webui.word_lists import LONGEST, Word, WordsSpec

HOOK = "register_words"
MOST = 8  # words of an extension that are shown
LEAST = 2  # letters of a plain word
LAST_WORDS = 4  # of a sentence that is typed, which may begin a word of several
SECONDS = 2.0  # that a search may take
FACT = 120  # characters of a fact

Words = Mapping[str, Sequence[WordsSpec]]  # by the extension's name


class WordFinder:
    """The words that extensions offer.

    Args:
        heeds: whether an extension is still to be asked.
        on_failure: told of an extension, the hook's name, and what went wrong.
        on_call: told of every call: whose it was, which hook, and how many seconds it took.
    """

    def __init__(
        self,
        words: Words,
        watch: Watch,
        *,
        heeds: Callable[[str], bool],
        on_failure: Callable[[str, str, BaseException], None],
        on_call: Callable[[str, str, float], None],
    ) -> None:
        self._words = words
        self._watch = watch
        self._heeds = heeds
        self._on_failure = on_failure
        self._on_call = on_call
        self._turns = {owner: threading.Lock() for owner in words}
        self._stuck: set[str] = set()  # whose search has not returned: not asked before it does

    @property
    def marks(self) -> list[dict[str, str]]:
        """What may stand before and behind words, each pair once: what the page needs to know before it asks."""
        pairs = dict.fromkeys(spec.marks for specs in self._words.values() for spec in specs)
        return [{"starts": starts, "ends": ends} for starts, ends in pairs]

    def find(self, starts: str, typed: str) -> tuple[str, list[dict[str, str]]]:
        """Which part of ``typed`` was looked for, from its end, and what was found for it.

        Plain words are looked for as a whole, then by fewer and fewer of their last ones.
        """
        failed: set[str] = set()
        for part in [typed] if starts else endings(typed):
            found = self._find(starts, part, failed)
            if found:
                return part, found
        return typed, []

    def _find(self, starts: str, typed: str, failed: set[str]) -> list[dict[str, str]]:
        rows: dict[tuple[str, str], dict[str, str]] = {}
        for owner, specs in self._words.items():
            for spec in specs:
                if spec.starts != starts or owner in failed or not self._heeds(owner):
                    continue
                found = self._ask(owner, spec, typed)
                if found is None:
                    failed.add(owner)  # once for each question of the page
                for word in found or ():
                    row = {"text": word.text, "fact": word.fact[:FACT], "ends": spec.ends}
                    rows.setdefault((word.text, spec.ends), row)
        return list(rows.values())

    def _ask(self, owner: str, spec: WordsSpec, typed: str) -> Sequence[Word] | None:
        """What it finds; None: it failed, or has not returned since it was asked last."""
        turn = self._turns[owner]  # one search of an extension at a time
        if owner in self._stuck or not turn.acquire(timeout=SECONDS):
            return None

        def call() -> list[Word]:
            try:
                with self._watch(owner, HOOK):
                    return [checked(word) for word in islice(spec.find(typed, MOST), MOST)]
            finally:
                self._stuck.discard(owner)
                turn.release()

        started = time.perf_counter()
        try:
            return within(SECONDS, call)
        except NoResult:
            self._stuck.add(owner)
            self._watch.forget(owner)
            what = f"The extension {owner} did not find words ({spec.name}) within {SECONDS:g} s."
            self._on_failure(owner, HOOK, HookTimeout(what))
        except BaseException as error:
            self._on_failure(owner, HOOK, error)
        finally:
            self._on_call(owner, HOOK, time.perf_counter() - started)
        return None


def endings(typed: str) -> list[str]:
    """All of it, then its last words, fewer and fewer; none shorter than a plain word must be."""
    words = typed.split()
    fewer = [" ".join(words[-count:]) for count in range(min(LAST_WORDS, len(words) - 1), 0, -1)]
    typed_so = [part if typed.endswith(part) else "" for part in fewer]  # two spaces, or one behind it
    return [part for part in (typed, *typed_so) if len(part) >= LEAST]


def checked(word: object) -> Word:
    """A word that a prompt can hold. Raises ``TypeError``, ``ValueError``."""
    if not (isinstance(word, Word) and isinstance(word.text, str) and isinstance(word.fact, str)):
        raise TypeError(f"{word!r:.60} is no Word of two texts")
    if not 0 < len(word.text.strip()) <= LONGEST or not word.text.isprintable():
        raise ValueError(f"{word.text!r:.60} is no word of 1 to {LONGEST} printable characters on one line")
    return word
