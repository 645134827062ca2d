"""One model file as it is listed: what it is, whether a request may name it, and a sentence where it may not."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from backend.errors import ModelUnsupported, UserError
from backend.formats.adapters import AdapterInfo
from backend.formats.answers import answered
from backend.formats.configs import CheckpointInfo, EncoderInfo, OtherFile, PreviewInfo, VaeInfo
from backend.formats.control_configs import ControlInfo
from backend.formats.detect import with_article
from backend.formats.embeddings import EmbeddingInfo
from backend.records.compose import ENCODER_NAMES, completed, lacks_encoders, missing_sentence
from backend.records.places import Folder, Place
from backend.records.readings import Stamp
from backend.records.walk import Found

MAX_NAME = 255

Info = CheckpointInfo | VaeInfo | EncoderInfo | PreviewInfo | EmbeddingInfo | AdapterInfo | ControlInfo | OtherFile
#: What a request may name in a folder.
_USED: Mapping[str, type] = {
    "checkpoints": CheckpointInfo,
    "vae": VaeInfo,
    "text_encoders": EncoderInfo,
    "embeddings": EmbeddingInfo,
    "loras": AdapterInfo,
    "controlnet": ControlInfo,
    "ip_adapter": OtherFile,  # what extensions read is their own business
    "clip_vision": OtherFile,
    "previews": PreviewInfo,
}


@dataclass(frozen=True, kw_only=True)
class ModelEntry:
    """One file: what it is (``info``), why it cannot be read (``error``), or neither while it has not been read.

    Attributes:
        name: what requests say, see ``names``.
        root: the tree of another program that it lies in; empty for our own models folder.
        usable: whether a request may name it where it lies.
        sentence: what to tell the person; empty for a file that is all right.
        settling: it looks damaged, but was changed a moment ago and may be on its way; it is looked at again.
        preview: picture beside it and its time of change in ns; None if there is none.
        note_files: JSON files beside it, see ``sidecars``.
        answers: what a person said where the file cannot tell; ``info`` is as they say.
    """

    name: str
    folder: Folder
    root: str
    path: Path
    stamp: Stamp
    info: Info | None
    error: UserError | None
    usable: bool
    sentence: str
    settling: bool = False
    preview: tuple[str, int] | None = None
    note_files: tuple[str, ...] = ()
    answers: Mapping[str, str] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """By which page and REST ask for what lies beside it: never by a path."""
        return hashlib.sha256(f"{self.folder}\0".encode() + os.fsencode(self.path)).hexdigest()[:16]

    @property
    def is_read(self) -> bool:
        """Whether its header was looked at."""
        return self.info is not None or self.error is not None

    @property
    def file_bytes(self) -> int:
        """Its size."""
        return self.stamp.size


def make_entry(
    place: Place,
    found: Found,
    name: str,
    told: Info | UserError | None,
    *,
    settling: bool,
    answers_of: Callable[[str, Stamp], Mapping[str, str]],
    encoders: Sequence[EncoderInfo],
) -> ModelEntry:
    """The entry of a file whose header told ``told`` (None: it has not been read), with what a person answered.

    Args:
        encoders: files of text encoders, from which a checkpoint is completed.
    """
    answers: Mapping[str, str] = {}
    if isinstance(told, CheckpointInfo | VaeInfo) and told.questions:
        answers = answers_of(found.path, found.stamp)
        told = answered(told, answers)
    if isinstance(told, CheckpointInfo) and lacks_encoders(told):
        told = completed(told, encoders)
    error = told if isinstance(told, UserError) else None
    if len(name) > MAX_NAME or not name.isprintable():  # an undecodable name holds surrogates: not printable either
        name = "".join(letter if letter.isprintable() else "?" for letter in name)[:MAX_NAME]
        error = ModelUnsupported(f"The name {name!r} is too long or cannot be written.", "Rename the file.")
    info = None if isinstance(told, UserError) else told
    folder = place.folder if info is None else place.folder_of(role(info)[1])
    sentence = str(error) if error else "" if info is None else _sentence(info, folder, encoders)
    return ModelEntry(
        name=name,
        folder=folder,
        root=place.root,
        path=Path(found.path),
        stamp=found.stamp,
        info=info,
        error=error,
        usable=not sentence and isinstance(info, _USED.get(folder, ())),
        sentence=sentence,
        settling=settling,
        preview=found.preview,
        note_files=found.notes,
        answers=answers,
    )


def refusal(entry: ModelEntry, about: str) -> UserError:
    """Why a request may not name this file in its field ``about``."""
    if entry.error is not None:
        return type(entry.error)(entry.error.what, entry.error.todo, field=about)
    return ModelUnsupported(f"{entry.name} cannot be used here: {entry.sentence}", "Choose another.", field=about)


def _sentence(info: Info, folder: Folder, encoders: Sequence[EncoderInfo]) -> str:
    """What is wrong with a readable file where it lies; empty if nothing."""
    kind, home = role(info)
    if home and home != folder:
        return f"This is {with_article(kind)}; it belongs in models/{home}."
    if isinstance(info, OtherFile):
        return "" if _USED.get(folder) is OtherFile else info.sentence
    if not isinstance(info, CheckpointInfo):
        return ""
    return info.refusal or missing_sentence(info, encoders)


def role(info: Info) -> tuple[str, str]:
    """What a file is called, and the folder where it belongs (empty: nowhere)."""
    if isinstance(info, CheckpointInfo):
        return f"checkpoint ({info.variant})", "checkpoints"
    if isinstance(info, AdapterInfo):
        return info.kinds[0], "loras"
    if isinstance(info, ControlInfo):
        return info.kind, "controlnet"
    if isinstance(info, EmbeddingInfo):
        return "textual inversion", "embeddings"
    if isinstance(info, PreviewInfo):
        return "preview decoder", "previews"
    if isinstance(info, EncoderInfo):
        return f"{ENCODER_NAMES[info.part]} text encoder", "text_encoders"
    return ("VAE", "vae") if isinstance(info, VaeInfo) else (info.kind, info.belongs_in)
