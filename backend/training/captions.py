"""From a scene to one of the sentences that describe it; the grammar that the demo checkpoints understand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from backend.training.objects import COLOURS, PLACES, THINGS
from backend.training.scenes import Item, Scene

_SIZE_WORDS = {"large": ("big", "large"), "normal": (), "small": ("small", "little", "tiny")}
_SIDES = {"left": "on the left", "right": "on the right", "centre": "in the middle"}
_NO_ARTICLE = ("grapes", "cherries", "fire", "bread", "cheese", "corn", "broccoli", "coffee")
_COLOUR_PHRASES = ("on a {} background", "on a plain {} background", "with a {} background", "on {}")
_OPENINGS = ("a picture of ", "a drawing of ", "an image of ", "an emoji of ")


def _pick(rng: np.random.Generator, values: Sequence[str]) -> str:
    return values[int(rng.integers(len(values)))]


def with_article(words: str) -> str:
    """``fox`` -> ``a fox``; plurals and substances stay as they are."""
    if words in _NO_ARTICLE:
        return words
    if words in ("sun", "moon", "earth"):
        return f"the {words}"
    return f"an {words}" if words[0] in "aeiou" and not words.startswith("uni") else f"a {words}"


def background_phrase(background: str, rng: np.random.Generator | None = None) -> str:
    """``blue`` -> ``on a blue background``; without a generator the first phrase."""
    phrases = PLACES.get(background) or tuple(p.format(background) for p in _COLOUR_PHRASES)
    if rng is None or rng.random() < 0.6:
        return phrases[0]
    return _pick(rng, phrases)


def _noun(item: Item, rng: np.random.Generator, *, say_size: float) -> str:
    thing = THINGS[item.thing]
    name = thing.name if not thing.also or rng.random() < 0.8 else _pick(rng, thing.also)
    words = _SIZE_WORDS[item.size]
    return f"{_pick(rng, words)} {name}" if words and rng.random() < say_size else name


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """One of the sentences that say what the scene shows; sometimes a part is left unsaid, as people do."""
    where = background_phrase(scene.background, rng)
    if len(scene.items) == 2:
        return _pair_caption(scene, where, rng)
    item = scene.items[0]
    noun = _noun(item, rng, say_size=0.9 if item.size == "small" else 0.08)
    side = "" if item.place == "centre" and rng.random() < 0.95 else f" {_SIDES[item.place]}"
    u = rng.random()
    if u < 0.62:
        return f"{with_article(noun)}{side} {where}" if not side else f"{with_article(noun)}{side}, {where}"
    if u < 0.72:
        return f"{_pick(rng, _OPENINGS)}{with_article(noun)}{side}, {where}"
    if u < 0.84:
        bare = f"{scene.background} background" if scene.background in COLOURS else where
        return f"{noun}{side}, {bare}"
    if u < 0.90:
        return f"{noun} {where}"
    if u < 0.98:
        return f"{with_article(noun)}{side}"
    return where


def _pair_caption(scene: Scene, where: str, rng: np.random.Generator) -> str:
    left, right = (with_article(_noun(item, rng, say_size=0.0)) for item in scene.items)
    u = rng.random()
    if u < 0.5:
        return f"{left} on the left and {right} on the right, {where}"
    if u < 0.75:
        return f"{left} and {right} {where}"
    if u < 0.88:
        return f"{left} to the left of {right}, {where}"
    return f"{right} to the right of {left}, {where}"


def plain_caption(thing: str, background: str) -> str:
    """The commonest sentence of one large object: what recognition is measured with."""
    return f"{with_article(thing)} {background_phrase(background)}"


def all_names() -> tuple[str, ...]:
    """Every name that a caption can hold, alternatives included."""
    return tuple(name for thing in THINGS.values() for name in (thing.name, *thing.also))


def all_words() -> list[str]:
    """Every word of the grammar, for the vocabulary: names, colours, places and the words between."""
    sentences = [*_OPENINGS, *_SIDES.values(), *COLOURS, *all_names()]
    sentences += [phrase for phrases in PLACES.values() for phrase in phrases]
    sentences += [phrase.format("") for phrase in _COLOUR_PHRASES]
    sentences += [word for words in _SIZE_WORDS.values() for word in words]
    sentences += ["to the left of", "to the right of", "and the an with"]
    return sorted({word.strip(",") for sentence in sentences for word in sentence.split()})
