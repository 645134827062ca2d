"""A prompt's text as far as an addition must know it: its plain words, and where more of them can stand."""

from __future__ import annotations

import re
from collections.abc import Iterable, Set

from extensions.prompt_expand.words import SMALL

_TAG = re.compile(r"<[^<>]*>")
_WORD = re.compile(r"[^\W_][\w'/.-]*")
_MARKS = re.compile(r"\\.|<[^<>]*>|[()\[\]{}]|\bAND\b", re.DOTALL)
_OWN_WEIGHT = re.compile(r"\s*:\s*[-+]?[0-9.]+\s*$")
_OPENERS = {")": "(", "]": "[", "}": "{"}
_LANGUAGE = re.compile(r"[()\[\]{}<>|\\:$]|__")  # what means something in a prompt


def plain(prompt: str) -> str:
    """The words of a prompt without tags, weights and brackets, in one line."""
    text = re.sub(r"\b(AND|BREAK)\b", ",", _TAG.sub(" ", prompt))
    text = re.sub(r":\s*[-+]?[0-9.]+\s*(?=[)\]\s]|$)", " ", text)
    return re.sub(r"\s*,[\s,]*", ", ", " ".join(_LANGUAGE.sub(" ", text).split())).strip(" ,")


def words_of(prompt: str) -> frozenset[str]:
    """The words of a prompt in small letters; a plural counts as its singular, too."""
    found = {word.strip("'/.-").casefold() for word in _WORD.findall(plain(prompt))}
    return frozenset(found | {word[:-1] for word in found if word.endswith("s") and len(word) > 3})


def meets(text: str, words: frozenset[str]) -> bool:
    """Whether a text has one of the words, those aside that say too little."""
    return not words.isdisjoint(words_of(text) - SMALL)


def inserted(prompt: str, addition: str) -> str:
    """The prompt with ``addition`` behind its words: behind everything, or before the first AND and its weight.

    Nothing that stands there is changed.
    """
    head = prompt[: _end_of_first(prompt)].rstrip()
    tail = prompt[len(head) :].rstrip()
    if not head:
        addition = addition.lstrip(" ,.")
    elif head.endswith((",", ";", ".", "!", "?")) and addition.startswith((",", ".")):
        addition = addition[1:]
    return head + addition + (" " if tail and not tail[0].isspace() else "") + tail


def _end_of_first(prompt: str) -> int:
    """Where the first of the prompts that AND joins ends, its own weight left out; an AND in brackets is a word."""
    waiting: list[str] = []
    for match in _MARKS.finditer(prompt):
        mark = match[0]
        if mark in _OPENERS.values():
            waiting.append(mark)
        elif mark in _OPENERS:
            if _OPENERS[mark] in waiting:
                del waiting[len(waiting) - 1 - waiting[::-1].index(_OPENERS[mark]) :]
        elif mark == "AND" and not waiting:
            weight = _OWN_WEIGHT.search(prompt, 0, match.start())
            return weight.start() if weight else match.start()
    return len(prompt)


def cleaned(text: str, there: Set[str], against: frozenset[str], *, whole: bool) -> str:
    """What a language model wrote, as words that change nothing else in a prompt.

    Args:
        there: words of the prompt: a phrase that only repeats them is left out.
        against: words of the negative prompt: a phrase with one of them is left out.
        whole: the text has come to its end; otherwise its last phrase may be cut and goes, unless it is the only one.
    """
    line = text.strip().splitlines()[0] if text.strip() else ""
    line = re.sub(r"\b(AND|BREAK)\b", lambda match: match[0].lower(), _LANGUAGE.sub(" ", line))
    phrases = [" ".join(phrase.split()).strip(" \"'`*#") for phrase in re.split(r"[,;.\n]+", line)]
    phrases = phrases if whole or len(phrases) < 2 else phrases[:-1]
    return ", ".join(_new(phrases, there, against))


def _new(phrases: Iterable[str], there: Set[str], against: frozenset[str]) -> list[str]:
    kept: list[str] = []
    seen: set[frozenset[str]] = set()
    for phrase in phrases:
        words = words_of(phrase)
        if words and not words <= there and words not in seen and not meets(phrase, against):
            kept.append(phrase)
            seen.add(words)
    return kept
