"""Adapters of a job: files read once for each checkpoint, with the strengths that the job asks for.

What is in the weights is the model manager's affair (``ModelManager.get``); this file only knows what ought to be.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path

from torch import nn

from backend.adapters.apply import AdapterUse
from backend.adapters.formats import Adapter, read_adapter
from backend.adapters.places import TEXT_PARTS, Places
from backend.checkpoints.load import empty_part
from backend.errors import BadRequest, NotFound, UserError
from backend.extending import AdapterChoice
from backend.formats.configs import CheckpointInfo, Part
from backend.records.catalog import Catalog
from backend.records.hashes import tensors_hash
from backend.records.tags import check_family

ADAPTED: tuple[Part, ...] = ("denoiser", *TEXT_PARTS)
MAX_STRENGTH = 100.0
OnNote = Callable[[str], None]
Stamp = tuple[Path, int, int]


class AdapterShelf:
    """Adapter files as they were read, so that the next job with the same ones changes no weight.

    Args:
        entries: files that are kept; their tensors stay in the mapped files, so they take next to no memory.
    """

    def __init__(self, catalog: Catalog, entries: int = 32) -> None:
        self._catalog = catalog
        self._entries = entries
        self._read: OrderedDict[tuple[Stamp, Hashable], Adapter] = OrderedDict()
        self._hashes: dict[Stamp, str] = {}
        self._places: tuple[Hashable, Places] | None = None  # of the latest checkpoint

    def uses(
        self, choices: Sequence[AdapterChoice], info: CheckpointInfo, on_note: OnNote
    ) -> tuple[tuple[AdapterUse, ...], tuple[Path, ...]]:
        """The adapters for a checkpoint, and the files that they are from; a file named twice counts as last named.

        Raises:
            NotFound, ModelCorrupt, ModelUnsafe: the file is not there, or cannot be read.
            ModelUnsupported: it is for another family, or nothing in it fits the checkpoint.
            BadRequest: a strength beyond 100.
        """
        wanted: dict[Path, tuple[AdapterUse, AdapterChoice]] = {}
        for choice in choices:
            for strength in (choice.denoiser, choice.text):
                if not abs(strength) <= MAX_STRENGTH:
                    raise BadRequest(
                        f"The strength of {choice.file} is {strength:g}.",
                        f"Accepted: -{MAX_STRENGTH:g} to {MAX_STRENGTH:g}.",
                        field=choice.field,
                    )
            found = self._catalog.adapter(choice.file, choice.field)
            check_family(found, info, choice.field)
            adapter = self._adapter(found.path, info, choice.field)
            if adapter.match.left:
                on_note(f"{found.name}: {adapter.match.sentence()}.")
            use = AdapterUse(adapter, choice.denoiser, dict.fromkeys(TEXT_PARTS, choice.text))
            if found.path in wanted and wanted[found.path][0] != use:
                on_note(f"{found.name} is named twice with different strengths; the last counts.")
            wanted[found.path] = (use, choice)
        acting = {path: use for path, (use, choice) in wanted.items() if choice.denoiser or choice.text}
        return tuple(acting.values()), tuple(acting)

    def hash_of(self, path: Path) -> str:
        """A1111's hash of a LoRA, 12 digits. Raises ``NotFound``."""
        stamp = _stamp(path)
        if stamp not in self._hashes:
            self._hashes[stamp] = tensors_hash(path)[:12]
        return self._hashes[stamp]

    def _adapter(self, path: Path, info: CheckpointInfo, field: str) -> Adapter:
        networks: Hashable = tuple((part, _config(info, part)) for part in ADAPTED if part in info.sources)
        key = (_stamp(path), networks)
        adapter = self._read.pop(key, None)
        if adapter is None:
            try:
                adapter = read_adapter(path, self._places_of(info, networks))
            except UserError as error:
                raise type(error)(error.what, error.todo, field=field) from error
        self._read[key] = adapter
        while len(self._read) > self._entries:
            self._read.popitem(last=False)
        return adapter

    def _places_of(self, info: CheckpointInfo, networks: Hashable) -> Places:
        """The layers' names of a checkpoint, from networks without memory: not all of them need be loaded."""
        if self._places is None or self._places[0] != networks:
            modules: dict[Part, nn.Module] = {part: empty_part(info, part) for part in ADAPTED if part in info.sources}
            self._places = (networks, Places(modules))
        return self._places[1]


def text_key(uses: Sequence[AdapterUse]) -> Hashable:
    """What of the adapters acts on text encoders, for a cache's key."""
    strengths = [(use.adapter, tuple(use.strength_of(part) for part in TEXT_PARTS)) for use in uses]
    return tuple((adapter, each) for adapter, each in strengths if any(each))


def _stamp(path: Path) -> Stamp:
    try:
        status = path.stat()
    except OSError as error:
        raise NotFound(f"{path.name} is not there any more.", "Look at the models folder.", field="prompt") from error
    return path, status.st_size, status.st_mtime_ns


def _config(info: CheckpointInfo, part: Part) -> Hashable:
    return info.denoiser if part == "denoiser" else getattr(info, part)
