"""How often a checkpoint draws what the caption names: every picture is matched with all objects on all backgrounds.

The measure is coarse on purpose (32x32 pixels, nearest neighbour): it compares versions of the demo checkpoints, and
does not replace looking at the contact sheet.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from backend.training.captions import plain_caption
from backend.training.objects import BACKGROUNDS, Thing
from backend.training.scenes import Icons, Item, Scene, draw_scene

MATCH_SIDE = 32
_VARIANTS = 6  # drawings of each object on each background; sizes and places differ as in training

Draw = Callable[[str, int], Image.Image]


@dataclass(frozen=True)
class Case:
    """One caption and what should be recognised in its picture."""

    thing: str
    background: str
    caption: str


@dataclass(frozen=True)
class Report:
    """Shares of pictures, 0 to 1, whose nearest drawing has the right object, the right background, or both."""

    count: int
    thing: float
    background: float
    both: float
    mistaken: dict[str, str]

    def __str__(self) -> str:
        worst = "; ".join(f"{said} taken for {seen}" for said, seen in self.mistaken.items())
        shares = f"object {self.thing:.1%}, background {self.background:.1%}, both {self.both:.1%}"
        return f"{self.count} captions: {shares}" + (f" ({worst})" if worst else "")


def plain_cases(things: Sequence[Thing], count: int, seed: int = 0) -> list[Case]:
    """``count`` captions of one large object each: every object equally often, backgrounds drawn at random."""
    rng = np.random.default_rng(seed)
    cases = []
    for index in range(count):
        thing = things[index % len(things)].name
        background = BACKGROUNDS[int(rng.integers(len(BACKGROUNDS)))]
        cases.append(Case(thing, background, plain_caption(thing, background)))
    return cases


def small(image: Image.Image | np.ndarray) -> Tensor:
    """A picture as a row of numbers for matching."""
    pixels = torch.from_numpy(np.asarray(image, dtype=np.float32) / 127.5 - 1).movedim(-1, 0)[None]
    return F.interpolate(pixels, (MATCH_SIDE, MATCH_SIDE), mode="area").flatten()


class Matcher:
    """Nearest-neighbour recognition among drawings of all objects on all backgrounds."""

    def __init__(self, icons: Icons, things: Sequence[Thing], side: int = 64) -> None:
        rng = np.random.default_rng(1)
        self._labels = [
            (thing.name, background) for thing in things for background in BACKGROUNDS for _ in range(_VARIANTS)
        ]
        scenes = (Scene(background, (Item(thing),)) for thing, background in self._labels)
        self._rows = torch.stack([small(draw_scene(scene, icons, side, rng)) for scene in scenes])

    def nearest(self, image: Image.Image | np.ndarray) -> tuple[str, str]:
        """Object and background of the drawing that is nearest in squared error."""
        distance = (self._rows - small(image)).square().sum(dim=1)
        return self._labels[int(distance.argmin())]


def measure(cases: Sequence[Case], draw: Draw, matcher: Matcher) -> tuple[Report, list[Image.Image]]:
    """Draw every case with its own seed and match it.

    Args:
        draw: caption and seed -> picture.
    """
    pictures, things, backgrounds, both = [], 0, 0, 0
    mistaken: dict[str, str] = {}
    for seed, case in enumerate(cases):
        picture = draw(case.caption, seed)
        pictures.append(picture)
        thing, background = matcher.nearest(picture)
        things += thing == case.thing
        backgrounds += background == case.background
        both += (thing, background) == (case.thing, case.background)
        if thing != case.thing:
            mistaken[case.thing] = thing
    count = len(cases)
    return Report(count, things / count, backgrounds / count, both / count, mistaken), pictures


def contact_sheet(pictures: Sequence[Image.Image], columns: int = 10) -> Image.Image:
    """All pictures side by side, row by row, at the size of the first."""
    width, height = pictures[0].size
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * width, rows * height), (255, 255, 255))
    for index, picture in enumerate(pictures):
        sheet.paste(picture, (index % columns * width, index // columns * height))
    return sheet


def engine_draw(checkpoint: Path, *, steps: int | None, cfg_scale: float | None, use_t5: bool = True) -> Draw:
    """Draw through the engine, as a user's request would, with the checkpoint's own defaults for what is ``None``."""
    from backend.engine.engine import Engine
    from backend.request import GenerationRequest
    from backend.settings import Settings

    engine = Engine(Settings(models_dir=checkpoint.resolve().parent.parent))

    def draw(caption: str, seed: int) -> Image.Image:
        request = GenerationRequest(
            prompt=caption,
            checkpoint=checkpoint.stem,
            seed=seed,
            steps=steps,
            cfg_scale=cfg_scale,
            use_t5=use_t5,
        )
        return engine.generate(request).pictures[0].image

    return draw
