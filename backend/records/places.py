"""Where model files may lie: the folders of models/, and which kind of file belongs into each."""

from __future__ import annotations

from collections.abc import Mapping
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

#: A1111's and Forge's users keep what guides in one folder.
_MIXED: Mapping[Folder, tuple[Folder, ...]] = {"controlnet": ("ip_adapter", "clip_vision")}


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

    @property
    def may_hold(self) -> tuple[Folder, ...]:
        """The folders that its files may count to: their own, and where other programs put kinds of ours into one."""
        return (self.folder, *_MIXED.get(self.folder, ())) if self.root else (self.folder,)

    def folder_of(self, home: str) -> Folder:
        """The folder that a file in it counts to, if its kind belongs in ``home``."""
        held = self.may_hold
        return held[held.index(home)] if home in held else self.folder


def own_places(models_dir: Path) -> list[Place]:
    """The folders below our own models folder; previews may lie under ComfyUI's name for them, too."""
    return [*(Place(folder, models_dir / folder) for folder in FOLDERS), Place("previews", models_dir / "vae_approx")]
