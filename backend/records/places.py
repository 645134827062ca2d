"""Where model files may lie: the folders of models/, and which kind of file belongs into each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from backend.errors import NotFound, unknown_name

Folder = Literal[
    "checkpoints",
    "vae",
    "text_encoders",
    "loras",
    "embeddings",
    "controlnet",
    "ip_adapter",
    "clip_vision",
    "upscalers",
    "previews",
]
FOLDERS: tuple[Folder, ...] = (
    "checkpoints", "vae", "text_encoders", "loras", "embeddings", "controlnet", "ip_adapter", "clip_vision",
    "upscalers", "previews",
)  # fmt: skip


def folder_named(name: str) -> Folder:
    """The folder of this name. Raises ``NotFound``."""
    if name not in FOLDERS:
        raise NotFound(unknown_name("Folder of models/", name, FOLDERS), field="extensions")
    return FOLDERS[FOLDERS.index(name)]


@dataclass(frozen=True)
class Place:
    """A folder of the disk whose files count as lying in models/``folder``.

    Attributes:
        root: how another program's tree is called where its names clash with ours; empty: our own models folder.
    """

    folder: Folder
    top: Path
    root: str = ""


def own_places(models_dir: Path) -> list[Place]:
    """The folders below our own models folder; previews may lie under ComfyUI's name for them, too."""
    return [*(Place(folder, models_dir / folder) for folder in FOLDERS), Place("previews", models_dir / "vae_approx")]
