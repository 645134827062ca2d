"""The model files a user has, each told apart by its header; what cannot be used is listed with its sentence.

Headers are read once for each path, size and time of change. Symbolic links are followed, to files and to folders:
the user made them. The default checkpoint is the user's first by name, then the shipped ones.
"""

from __future__ import annotations

import logging
import os
import stat
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from backend.errors import ModelUnsupported, NotFound, UserError, unknown_name
from backend.formats.configs import CheckpointInfo, OtherFile, VaeInfo
from backend.formats.detect import detect
from backend.formats.reader import read_header
from backend.records.hashes import ModelHashes

Folder = Literal["checkpoints", "vae", "text_encoders", "loras", "embeddings", "controlnet", "upscalers"]
FOLDERS: tuple[Folder, ...] = (
    "checkpoints", "vae", "text_encoders", "loras", "embeddings", "controlnet", "upscalers"
)  # fmt: skip
SUFFIXES = frozenset({".safetensors", ".sft", ".ckpt", ".pt", ".pth", ".bin", ".gguf"})
DEMOS = ("demo-xl", "demo-sd3")  # shipped; a user's own files come before them
MAX_DEPTH = 8
MAX_NAME = 255

Info = CheckpointInfo | VaeInfo | OtherFile
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ModelEntry:
    """One file: what it is (``info``) or why it cannot be read (``error``).

    Attributes:
        name: path below its folder without the suffix, "/" between parts; what requests say.
        usable: whether a request may name it where it lies.
        sentence: what to tell the person; empty for a file that is all right.
    """

    name: str
    folder: Folder
    path: Path
    file_bytes: int
    info: Info | None
    error: UserError | None
    usable: bool
    sentence: str


class Catalog:
    """The files below a models folder; usable from several threads.

    Args:
        models_dir: the folder of checkpoints/, vae/ ...
        hashes: file that remembers the model hashes.
    """

    def __init__(self, models_dir: Path, *, hashes: Path | None = None) -> None:
        self._root = models_dir
        self._hashes = ModelHashes(hashes or models_dir / ".hashes.json")
        self._lock = threading.Lock()
        self._seen: dict[Path, tuple[tuple[int, int], Info | UserError]] = {}

    def models(self) -> list[ModelEntry]:
        """Every model file, by folder and name; new, changed and vanished files are noticed."""
        with self._lock:
            found = [entry for folder in FOLDERS for entry in self._scan(folder)]
            kept = {entry.path for entry in found}
            self._seen = {path: seen for path, seen in self._seen.items() if path in kept}
            return found

    def find(self, name: str, folder: Folder = "checkpoints") -> ModelEntry:
        """The entry of a name, a file name or a bare stem, whatever its case; usable ones before others.

        Raises:
            NotFound: with the nearest name.
        """
        entries = [entry for entry in self.models() if entry.folder == folder]
        wanted = name.replace("\\", "/").casefold()
        for spelling in (_full_name, _full_file_name, _stem, _file_name):
            matches = [entry for entry in entries if spelling(entry).casefold() == wanted]
            if matches:
                return next((entry for entry in matches if entry.usable), matches[0])
        word, field = ("VAE", "vae") if folder == "vae" else ("Checkpoint", "checkpoint")
        known = [entry.name for entry in entries if entry.usable]
        todo = f"Put the file into models/{folder}, or choose another."
        raise NotFound(unknown_name(word, name, known), todo, field=field if folder in {"vae", "checkpoints"} else None)

    def default_checkpoint(self) -> ModelEntry:
        """The first usable checkpoint of the user's by name, else a shipped one.

        Raises:
            NotFound: there is none.
        """
        usable = [entry for entry in self.models() if entry.folder == "checkpoints" and entry.usable]
        if not usable:
            raise NotFound(
                "There is no checkpoint that this version can run.",
                "Put a .safetensors file of SDXL or SD3.5 into models/checkpoints.",
                field="checkpoint",
            )
        return min(usable, key=lambda entry: (DEMOS.index(entry.name) if entry.name in DEMOS else -1, entry.name))

    def checkpoint(self, name: str = "") -> CheckpointInfo:
        """What a request's ``checkpoint`` stands for; empty: the default.

        Raises:
            NotFound, ModelCorrupt, ModelUnsafe, ModelUnsupported: with field ``checkpoint``.
        """
        entry = self.find(name) if name else self.default_checkpoint()
        if isinstance(entry.info, CheckpointInfo) and entry.usable:
            return entry.info
        raise _refusal(entry, "checkpoint")

    def vae(self, name: str) -> VaeInfo:
        """What a request's ``vae`` stands for; raises as ``checkpoint``, with field ``vae``."""
        entry = self.find(name, "vae")
        if isinstance(entry.info, VaeInfo) and entry.usable:
            return entry.info
        raise _refusal(entry, "vae")

    def model_hash(self, path: Path) -> str:
        """A1111's hash (10 hex of sha256). It stands in the metadata: compute it before a picture is saved."""
        return self._hashes.get(path)

    def _scan(self, folder: Folder) -> Iterator[ModelEntry]:
        top = self._root / folder
        for path in sorted(_files(top, MAX_DEPTH, frozenset()), key=lambda path: str(path).casefold()):
            try:
                status = path.stat()
            except OSError:
                continue  # gone since, or a link to nothing
            if stat.S_ISREG(status.st_mode):
                info = self._info(path, (status.st_size, status.st_mtime_ns))
                yield _entry(path, path.relative_to(top), folder, status.st_size, info)

    def _info(self, path: Path, stamp: tuple[int, int]) -> Info | UserError:
        seen = self._seen.get(path)
        if seen is not None and seen[0] == stamp:
            return seen[1]
        try:
            info: Info | UserError = detect(read_header(path))
        except UserError as error:
            info = error.with_traceback(None)
        self._seen[path] = (stamp, info)
        return info


def _files(folder: Path, depth: int, above: frozenset[tuple[int, int]]) -> Iterator[Path]:
    """Model files below ``folder``; ``above`` holds the folders on the way down, against links in a circle."""
    try:
        status = folder.stat()
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        if not isinstance(error, FileNotFoundError):
            _log.warning("models folder %s cannot be read: %s", folder.name, error.strerror)
        return
    identity = (status.st_dev, status.st_ino)
    if identity in above:
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            if depth:
                yield from _files(Path(entry.path), depth - 1, above | {identity})
        elif Path(entry.name).suffix.lower() in SUFFIXES:
            yield Path(entry.path)


def _entry(path: Path, below: Path, folder: Folder, size: int, info: Info | UserError) -> ModelEntry:
    name = below.with_suffix("").as_posix()
    error = info if isinstance(info, UserError) else None
    if len(name) > MAX_NAME or not name.isprintable():  # an undecodable name holds surrogates: not printable either
        name = "".join(letter if letter.isprintable() else "?" for letter in name)[:MAX_NAME]
        error = ModelUnsupported(f"The name {name!r} is too long or cannot be written.", "Rename the file.")
    sentence = str(error) if error else _sentence(info, folder)
    return ModelEntry(
        name=name,
        folder=folder,
        path=path,
        file_bytes=size,
        info=None if isinstance(info, UserError) else info,
        error=error,
        usable=not sentence and isinstance(info, {"checkpoints": CheckpointInfo, "vae": VaeInfo}.get(folder, ())),
        sentence=sentence,
    )


def _sentence(info: Info | UserError, folder: Folder) -> str:
    """What is wrong with a readable file where it lies; empty if nothing."""
    if isinstance(info, UserError):
        return str(info)
    kind, home = _role(info)
    if home and home != folder:
        return f"This is a {kind}; it belongs in models/{home}."
    if isinstance(info, OtherFile):
        return info.sentence
    if not isinstance(info, CheckpointInfo):
        return ""
    if info.clip_l is None or info.clip_g is None:
        return info.refusal or "It has no CLIP text encoders in it: use the file that has all parts in one."
    return info.refusal


def _role(info: Info) -> tuple[str, str]:
    if isinstance(info, CheckpointInfo):
        return f"checkpoint ({info.variant})", "checkpoints"
    return ("VAE", "vae") if isinstance(info, VaeInfo) else (info.kind, info.belongs_in)


def _refusal(entry: ModelEntry, field: str) -> UserError:
    if entry.error is not None:
        return type(entry.error)(entry.error.what, entry.error.todo, field=field)
    return ModelUnsupported(f"{entry.name} cannot be used here: {entry.sentence}", "Choose another.", field=field)


def _full_name(entry: ModelEntry) -> str:
    return entry.name


def _full_file_name(entry: ModelEntry) -> str:
    return entry.name + entry.path.suffix


def _stem(entry: ModelEntry) -> str:
    return entry.path.stem


def _file_name(entry: ModelEntry) -> str:
    return entry.path.name
