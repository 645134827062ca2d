"""What a request became: its pictures and what there is to say of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from backend.events import Plan
from backend.request import GenerationRequest

VERSION = "0.1.0"


@dataclass(frozen=True)
class Picture:
    """One finished picture: in memory, or, where outputs were given, in the file at ``path`` alone.

    A job of 1,600 pictures would hold gigabytes otherwise.
    """

    seed: int
    parameters: str
    path: Path | None = None
    kept: Image.Image | None = None

    @property
    def image(self) -> Image.Image:
        """The picture; read from its file if it is not kept."""
        if self.kept is not None:
            return self.kept
        if self.path is None:
            raise ValueError("a picture is either kept or saved")
        with Image.open(self.path) as image:
            return image.convert("RGB")


@dataclass(frozen=True)
class GenerationResult:
    """What a request became: the request with every open field filled, its pictures, and what there is to say."""

    request: GenerationRequest
    pictures: tuple[Picture, ...]
    notes: tuple[str, ...]
    plan: Plan
    seconds: float
