"""Adapters of a job: files read once for each checkpoint, with the strengths that the job asks for.

What is in the weights is the model manager's affair (``ModelManager.get``); this file only knows what ought to be.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from pathlib import Path

from torch import nn

from backend.adapters.apply import AdapterUse, copied_weights
from backend.adapters.foreign import AdapterFormatSpec
from backend.adapters.formats import Adapter, read_adapter
from backend.adapters.places import TEXT_PARTS, Places
from backend.checkpoints.load import empty_part
from backend.diffusion.patching import Scope
from backend.diffusion.weight_sets import Acting, WeightSets
from backend.engine.device import DevicePolicy
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
        formats: of extensions, for files that Easel itself does not know.
        entries: files that are kept; their tensors stay in the mapped files, so they take next to no memory.
    """

    def __init__(self, catalog: Catalog, formats: Sequence[AdapterFormatSpec] = (), *, entries: int = 32) -> None:
        self._catalog = catalog
        self._formats = tuple(formats)
        self._entries = entries
        self._read: OrderedDict[tuple[Stamp, Hashable], Adapter] = OrderedDict()
        self._hashes: dict[Stamp, str] = {}
        self._places: tuple[Hashable, Places] | None = None  # of the latest checkpoint

    def uses(
        self, choices: Sequence[AdapterChoice], info: CheckpointInfo, on_note: OnNote
    ) -> tuple[tuple[AdapterUse, ...], tuple[Path, ...]]:
        """The adapters for a checkpoint, and the files that they are from; a file named twice with the same window,
        region and branches counts as last named.

        Raises:
            NotFound, ModelCorrupt, ModelUnsafe: the file is not there, or cannot be read.
            ModelUnsupported: it is for another family, or nothing in it fits the checkpoint.
            BadRequest: a strength beyond 100, a window that ends before it begins, a region that is none.
        """
        wanted: dict[Hashable, tuple[Path, AdapterUse]] = {}
        for choice in choices:
            _check(choice)
            found = self._catalog.adapter(choice.file, choice.field, unknown=bool(self._formats))
            check_family(found, info, choice.field)
            adapter = self._adapter(found.path, info, choice.field)
            if adapter.match.left:
                on_note(f"{found.name}: {adapter.match.sentence()}.")
            scope = _scope_of(choice)
            text = _text_strength(choice, scope)
            if scope is not None and any(adapter.changes.get(part) for part in TEXT_PARTS):
                on_note(_told_of_text(found.name, text))
            scope = scope if choice.denoiser and adapter.changes.get("denoiser") else None
            use = AdapterUse(adapter, choice.denoiser, dict.fromkeys(TEXT_PARTS, text), scope)
            key = (found.path, _where(scope))
            if key in wanted and wanted[key][1] != use:
                on_note(f"{found.name} is named twice with different strengths; the last counts.")
            wanted[key] = (found.path, use)
        acting = [
            (path, use) for path, use in _text_once(tuple(wanted.values())) if use.strength or any(use.by_part.values())
        ]
        return tuple(use for _, use in acting), tuple(dict.fromkeys(path for path, _ in acting))

    def kept_bytes(self, uses: Sequence[AdapterUse], info: CheckpointInfo, policy: DevicePolicy, steps: int) -> int:
        """What copies of the denoiser's weights take for adapters that come and go, of each set that some step has."""
        scopes = [use.scope for use in uses if use.scope is not None]
        how = policy.arithmetic("denoiser", info.sources)
        if not scopes or how.keep_all:  # weights that stay as they are stored are changed as they are decoded
            return 0
        sets = WeightSets(scopes, use=_nothing)
        branches = {"cond", "uncond"}.union(*(scope.branches for scope in scopes))
        acting = {
            numbers
            for branch in branches
            for step in range(steps)
            for numbers, _ in sets.mix(branch, step, steps, 8, 8)
        }
        network = self._places_of(info, _networks(info)).modules["denoiser"]
        copies = copied_weights("denoiser", uses, acting)
        return sum(network.get_parameter(name).numel() for name in copies) * how.dtype.itemsize

    def hash_of(self, path: Path) -> str:
        """A1111's hash of a LoRA, 12 digits. Raises ``NotFound``."""
        stamp = _stamp(path)
        if stamp not in self._hashes:
            self._hashes[stamp] = tensors_hash(path)[:12]
        return self._hashes[stamp]

    def _adapter(self, path: Path, info: CheckpointInfo, field: str) -> Adapter:
        networks = _networks(info)
        key = (_stamp(path), networks)
        adapter = self._read.pop(key, None)
        if adapter is None:
            try:
                adapter = read_adapter(path, self._places_of(info, networks), self._formats)
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


def _nothing(_acting: Acting) -> None:
    """Changes no weight: for asking which sets there are."""


def _check(choice: AdapterChoice) -> None:
    """Raise ``BadRequest`` for values that mean nothing."""
    for strength in (choice.denoiser, _text_strength(choice, None)):
        if not abs(strength) <= MAX_STRENGTH:
            raise BadRequest(
                f"The strength of {choice.file} is {strength:g}.",
                f"Accepted: -{MAX_STRENGTH:g} to {MAX_STRENGTH:g}.",
                field=choice.field,
            )
    if not 0 <= choice.start < choice.end <= 1:
        raise BadRequest(
            f"{choice.file} acts from {choice.start:g} to {choice.end:g} of the steps.",
            "The start must lie before the end, both between 0 and 1.",
            field=choice.field,
        )
    region = choice.region
    if region is not None and not (region.ndim == 2 and region.numel() and 0 <= region.min() <= region.max() <= 1):
        raise BadRequest(
            f"The region of {choice.file} is a tensor {list(region.shape)} of none, or with values beyond 0 to 1.",
            "Accepted: (h, w) numbers from 0 to 1.",
            field=choice.field,
        )


def _scope_of(choice: AdapterChoice) -> Scope | None:
    """Where it acts; None: everywhere and always, so that it can simply lie in the weights."""
    if (choice.start, choice.end) == (0.0, 1.0) and choice.region is None and not choice.branches:
        return None
    return Scope(start=choice.start, end=choice.end, region=choice.region, branches=choice.branches)


def _text_strength(choice: AdapterChoice, scope: Scope | None) -> float:
    if choice.text is not None:
        return choice.text
    return choice.denoiser if scope is None else 0.0


def _where(scope: Scope | None) -> Hashable:
    """A scope by its values."""
    if scope is None:
        return None
    region = None if scope.region is None else (tuple(scope.region.shape), tuple(scope.region.flatten().tolist()))
    return scope.start, scope.end, scope.branches, region


def _told_of_text(name: str, strength: float) -> str:
    if strength:
        return f"{name}: its text encoder part acts on whole prompts, in all steps and all of the picture."
    return (
        f"{name}: its text encoder part is left out, since it would act on whole prompts; a strength of its own for "
        f"text encoders (te=1 in a tag) puts it in."
    )


def _text_once(uses: Sequence[tuple[Path, AdapterUse]]) -> list[tuple[Path, AdapterUse]]:
    """A file that is named for several regions or windows is in the text encoders once, as last named."""
    once: list[tuple[Path, AdapterUse]] = []
    heard: set[Path] = set()
    for path, use in reversed(uses):
        silent = replace(use, by_part=dict.fromkeys(TEXT_PARTS, 0.0)) if path in heard else use
        heard |= {path} if any(use.by_part.values()) else set()
        once.append((path, silent))
    return once[::-1]


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


def _networks(info: CheckpointInfo) -> Hashable:
    """The networks that adapters can be for, by their configurations."""
    return tuple((part, _config(info, part)) for part in ADAPTED if part in info.sources)


def _config(info: CheckpointInfo, part: Part) -> Hashable:
    return info.denoiser if part == "denoiser" else getattr(info, part)
