"""Expansion by rules: one addition for each aspect that a prompt leaves open, drawn by the seed."""

from __future__ import annotations

from collections.abc import Collection
from random import Random
from typing import Literal

from extensions.prompt_expand.syntax import inserted, meets, words_of
from extensions.prompt_expand.words import NOT_PHOTOS, PHOTOGRAPHIC, TOLD, TONES, WORDS, Aspect, Tone, Words

Style = Literal["tags", "sentences"]


def expand_by_rules(
    prompt: str, negative: str, *, seed: int, amount: int, aspects: Collection[Aspect], style: Style
) -> str:
    """The prompt with up to ``amount`` additions; as it is if it tells of every aspect itself.

    Args:
        aspects: that may be added to.
        style: whether additions are tags, or sentences of their own.
    """
    chosen = additions(prompt, negative, seed=seed, amount=amount, aspects=aspects)
    if not chosen:
        return prompt
    joined = "".join(f", {each.tag}" for each in chosen)
    if style == "sentences":
        joined = ". " + " ".join(each.sentence for each in chosen)
    return inserted(prompt, joined)


def additions(prompt: str, negative: str, *, seed: int, amount: int, aspects: Collection[Aspect]) -> tuple[Words, ...]:
    """What is added, in the order in which it is written."""
    random = Random(seed)  # noqa: S311 - a draw that the seed repeats
    there, against = words_of(prompt), words_of(negative)
    photo: bool | None = False if NOT_PHOTOS & there else True if TOLD["medium"] & there else None
    tone = _tone(there)
    left: list[Aspect] = [aspect for aspect in WORDS if aspect in aspects and not _is_told(aspect, prompt, there)]
    chosen: dict[Aspect, Words] = {}
    for aspect in random.sample(left, len(left)):
        fitting = [
            each
            for each in WORDS[aspect]
            if (photo is None or each.photo == photo or aspect not in PHOTOGRAPHIC)
            and (tone == each.tone or "any" in (tone, each.tone))
            and not meets(" ".join((each.tag, *each.means)), against)
            and not words_of(each.tag) <= there
        ]
        if not fitting or len(chosen) == amount:
            continue
        chosen[aspect] = drawn = random.choice(fitting)
        tone = drawn.tone if tone == "any" else tone
        photo = drawn.photo if aspect in PHOTOGRAPHIC else photo
    return tuple(chosen[aspect] for aspect in WORDS if aspect in chosen)


def _is_told(aspect: Aspect, prompt: str, there: frozenset[str]) -> bool:
    return bool(TOLD[aspect] & there) or any(each.sentence in prompt for each in WORDS[aspect])


def _tone(words: frozenset[str]) -> Tone:
    """What a prompt says of its tone; ``any`` if it says both, or neither."""
    bright, dark = bool(TONES["bright"] & words), bool(TONES["dark"] & words)
    return "any" if bright == dark else "bright" if bright else "dark"
