"""Scenes as data and their pictures: a background, one or two objects, a soft shadow.

A scene is a frozen value; a generator decides what is in it and where exactly it is drawn, so that a seed gives the
same pool on every machine.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageFilter

from backend.errors import NotFound
from backend.training.objects import BACKGROUNDS, COLOURS, CORE, MORE, THINGS, Thing

Size = Literal["large", "normal", "small"]
Place = Literal["left", "centre", "right"]

_FRACTIONS: dict[Size, tuple[float, float]] = {"large": (0.80, 0.92), "normal": (0.55, 0.68), "small": (0.34, 0.42)}
_SIDE_FRACTIONS = (0.42, 0.47)  # of the picture's side, for an object in the left or right half
_CENTRES: dict[Place, float] = {"left": 0.26, "centre": 0.5, "right": 0.74}


@dataclass(frozen=True)
class Item:
    """One object of a scene."""

    thing: str
    size: Size = "large"
    place: Place = "centre"


@dataclass(frozen=True)
class Scene:
    """What is in a picture; two items stand left and right, in this order."""

    background: str
    items: tuple[Item, ...]


_OTHER_SIDE: dict[Place, Place] = {"left": "right", "centre": "centre", "right": "left"}


def mirrored(scene: Scene) -> Scene:
    """What the scene's picture shows when left and right are exchanged."""
    return Scene(scene.background, tuple(replace(i, place=_OTHER_SIDE[i.place]) for i in reversed(scene.items)))


@dataclass(frozen=True)
class Stage:
    """What a pool of scenes is drawn from. Probabilities are of all scenes; the rest are large single objects."""

    name: str
    things: tuple[Thing, ...]
    pair: float = 0.0
    side: float = 0.0
    normal: float = 0.0
    small: float = 0.0


STAGES = {
    stage.name: stage
    for stage in (
        Stage("large-singles", CORE),
        Stage("pairs", CORE, pair=0.3, side=0.08, normal=0.06, small=0.06),
        Stage("everything", (*CORE, *MORE), pair=0.3, side=0.08, normal=0.06, small=0.06),
    )
}


def random_scene(stage: Stage, rng: np.random.Generator) -> Scene:
    """Draw what is in a scene of this stage."""
    background = BACKGROUNDS[int(rng.integers(len(BACKGROUNDS)))]
    first = stage.things[int(rng.integers(len(stage.things)))].name
    u = rng.random()
    if u < stage.pair:
        second = stage.things[int(rng.integers(len(stage.things)))].name
        return Scene(background, (Item(first, "normal", "left"), Item(second, "normal", "right")))
    u -= stage.pair
    if u < stage.side:
        return Scene(background, (Item(first, "normal", "left" if rng.random() < 0.5 else "right"),))
    u -= stage.side
    if u < stage.normal:
        return Scene(background, (Item(first, "normal"),))
    u -= stage.normal
    return Scene(background, (Item(first, "small" if u < stage.small else "large"),))


class Icons:
    """The pictures of the objects, read once from the unpacked npm package, 256x256 RGBA.

    Raises:
        NotFound: naming the first picture that the folder lacks, and how to get the package.
    """

    def __init__(self, folder: Path, things: tuple[Thing, ...]) -> None:
        found = folder / "assets" if (folder / "assets").is_dir() else folder
        self._pictures: dict[str, Image.Image] = {}
        for thing in things:
            path = found / f"{thing.code}.webp"
            if not path.is_file():
                raise NotFound(
                    f"There is no picture {path.name} of {thing.name!r} in {found}.",
                    "Unpack `npm pack @lobehub/fluent-emoji-3d@1.1.0` and name its folder `package`.",
                )
            with Image.open(path) as picture:
                self._pictures[thing.name] = _trimmed(picture.convert("RGBA"))

    def picture(self, name: str, side: int) -> Image.Image:
        """The object ``side`` pixels wide or high, whichever is longer."""
        source = self._pictures[name]
        scale = side / max(source.size)
        size = (max(1, round(source.width * scale)), max(1, round(source.height * scale)))
        return source.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)


def _trimmed(picture: Image.Image) -> Image.Image:
    return picture.crop(picture.getchannel("A").point([255 if a > 8 else 0 for a in range(256)]).getbbox())


def draw_scene(scene: Scene, icons: Icons, side: int, rng: np.random.Generator) -> np.ndarray:
    """The scene as (side, side, 3) uint8; the generator moves and sizes things a little."""
    canvas = Image.fromarray(draw_background(scene.background, side, rng))
    for item in scene.items:
        low, high = _FRACTIONS[item.size] if item.place == "centre" else _SIDE_FRACTIONS
        picture = icons.picture(item.thing, round(side * rng.uniform(low, high)))
        slack = 0.03 * side
        x = round(_CENTRES[item.place] * side - picture.width / 2 + rng.uniform(-slack, slack))
        y = round(0.5 * side - picture.height / 2 + rng.uniform(-slack, slack))
        x = min(max(x, 0), side - picture.width)
        y = min(max(y, 0), side - picture.height)
        _paste_shadow(canvas, picture, x, y, side)
        canvas.paste(picture, (x, y), picture)
    return np.asarray(canvas)


def _paste_shadow(canvas: Image.Image, picture: Image.Image, x: int, y: int, side: int) -> None:
    shadow = Image.new("L", canvas.size, 0)
    shadow.paste(picture.getchannel("A").point([round(a * 0.35) for a in range(256)]), (x + side // 64, y + side // 42))
    canvas.paste((10, 10, 30), (0, 0), shadow.filter(ImageFilter.BoxBlur(side / 64)))


def draw_background(name: str, side: int, rng: np.random.Generator) -> np.ndarray:
    """(side, side, 3) uint8."""
    if name in COLOURS:
        colour = np.clip(np.array(COLOURS[name]) + rng.uniform(-8, 8), 0, 255)
        return np.broadcast_to(colour.astype(np.uint8), (side, side, 3)).copy()
    rows = {
        "meadow": lambda h: _bands(side, h, ((92, 162, 240), (178, 212, 250)), ((112, 186, 84), (62, 142, 56))),
        "beach": lambda h: _beach(side, h),
        "snow": lambda h: _bands(side, h, ((104, 166, 236), (190, 216, 246)), ((250, 252, 255), (220, 232, 246))),
        "night": lambda _: _gradient(side, (12, 12, 48), (34, 30, 92)),
        "desert": lambda h: _bands(side, h, ((252, 214, 160), (250, 190, 122)), ((220, 142, 72), (190, 112, 52))),
        "water": lambda _: _gradient(side, (64, 184, 214), (14, 70, 150)),
    }[name](round(side * rng.uniform(0.54, 0.58)))
    picture = np.broadcast_to(rows[:, None, :], (side, side, 3)).copy()
    if name == "night":
        _dots(picture, rng, count=36, colour=(250, 250, 236))
    elif name == "water":
        _dots(picture, rng, count=8, colour=(206, 238, 250))
    return picture.astype(np.uint8)


def _gradient(rows: int, top: tuple[int, int, int], bottom: tuple[int, int, int]) -> np.ndarray:
    t = np.linspace(0, 1, rows)[:, None]
    return np.array(top) * (1 - t) + np.array(bottom) * t


def _bands(side: int, horizon: int, sky: tuple, ground: tuple) -> np.ndarray:
    return np.concatenate([_gradient(horizon, *sky), _gradient(side - horizon, *ground)])


def _beach(side: int, horizon: int) -> np.ndarray:
    rows = _bands(side, horizon, ((110, 176, 246), (196, 222, 250)), ((238, 208, 146), (226, 190, 120)))
    rows[horizon - side // 10 : horizon] = (46, 128, 196)
    return rows


def _dots(picture: np.ndarray, rng: np.random.Generator, *, count: int, colour: tuple[int, int, int]) -> None:
    side = picture.shape[0]
    for x, y, r in zip(rng.integers(0, side, count), rng.integers(0, side, count), rng.uniform(0.5, 1.4, count)):
        radius = max(1, round(r * side / 128))
        picture[y : y + radius, x : x + radius] = colour


def scene_things(scenes: list[Scene]) -> tuple[Thing, ...]:
    """The objects that these scenes hold."""
    return tuple(THINGS[name] for name in sorted({item.thing for scene in scenes for item in scene.items}))
