"""A pool of drawn scenes, made once before training: pictures as bytes, and what each of them shows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from backend.training.scenes import STAGES, Icons, Scene, draw_scene, random_scene, scene_things


@dataclass(frozen=True)
class Pool:
    """``images`` is (N, 3, side, side) uint8; ``scenes[i]`` says what ``images[i]`` shows."""

    images: Tensor
    scenes: list[Scene]


def draw_pool(icons_folder: Path, stages: tuple[str, ...], count: int, side: int, seed: int) -> Pool:
    """Draw ``count`` scenes, the stages in turn; the same seed gives the same pool."""
    rng = np.random.default_rng(seed)
    scenes = [random_scene(STAGES[stages[i % len(stages)]], rng) for i in range(count)]
    icons = Icons(icons_folder, scene_things(scenes))
    images = torch.empty(count, 3, side, side, dtype=torch.uint8)
    for i, scene in enumerate(scenes):
        images[i] = torch.from_numpy(draw_scene(scene, icons, side, rng).copy()).permute(2, 0, 1)
    return Pool(images, scenes)


def to_floats(images: Tensor) -> Tensor:
    """uint8 pictures to float32 in [-1, 1]."""
    return images.float() / 127.5 - 1.0


def random_crops(images: Tensor, batch: int, side: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Endless batches of square crops, (batch, 3, side, side) uint8."""
    room = images.shape[-1] - side + 1
    while True:
        picks = torch.randint(len(images), (batch,), generator=generator).tolist()
        corners = torch.randint(room, (batch, 2), generator=generator).tolist()
        yield torch.stack([images[i, :, y : y + side, x : x + side] for i, (y, x) in zip(picks, corners, strict=True)])
