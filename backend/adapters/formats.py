"""From an adapter file to changes of our parameters, by their exact names; every key is used or named.

The rows of naming are in ``roles`` (endings) and ``places`` (stems), those of kinds in ``kinds``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from backend.adapters.foreign import AdapterFormatSpec, change_of, foreign_modules
from backend.adapters.kinds import KINDS, Change, Kind, scale_of
from backend.adapters.peft_metadata import PeftMetadata
from backend.adapters.places import Place, Places, one_spelling
from backend.adapters.roles import named
from backend.checkpoints.diffusers_layout import swap_halves
from backend.errors import ModelCorrupt, ModelUnsupported, NotFound
from backend.formats.configs import Part
from backend.formats.reader import read_header
from backend.nn.stored import weight_shape

_NO_ADAPTER = "no tensor of an adapter"
_INCOMPLETE = "without the others of its kind"
_ANOTHER_SHAPE = "of another shape than the checkpoint's layer"
_TWICE = "for a layer that another name in the file has changed already"
_NO_PARAMETER = "for a bias that the checkpoint's layer has not"
_BESIDE = "beside tensors of another kind"

#: What torch and the formulas say to tensors of shapes that do not go together.
_SHAPE_ERRORS = (ValueError, RuntimeError, IndexError, ZeroDivisionError)


@dataclass(frozen=True)
class PlacedChange:
    """A change and the part of a parameter that it is for."""

    change: Change
    rows: tuple[int, int] | None = None
    swapped: bool = False

    def of(self, weight: Tensor, strength: float = 1.0) -> Tensor:
        """What is to be added to ``region(weight)``; the weight is the whole parameter, float32."""
        own = self.region(weight)
        if not self.swapped:
            return self.change.of(own, strength)
        return swap_halves(self.change.of(swap_halves(own), strength))

    def on(self, device: torch.device) -> PlacedChange:
        """The same with its tensors there, in float32, for a change that is computed again and again."""
        return replace(self, change=self.change.on(device))

    def region(self, weight: Tensor) -> Tensor:
        """The rows meant, a view."""
        return weight if self.rows is None else weight[self.rows[0] : self.rows[1]]


Changes = Mapping[str, Sequence[PlacedChange]]  # by the name of our parameter


@dataclass(frozen=True)
class Match:
    """How much of a file found its place.

    Attributes:
        matched, total: keys that are used; keys that there are.
        left: each reason why keys are not used, and the keys.
    """

    matched: int
    total: int
    left: Mapping[str, Sequence[str]]

    def sentence(self, named: int = 3) -> str:
        """As in "matched 380 of 384 keys; 4 for a layer that this checkpoint has not: a, b, c, ..."."""
        parts = [f"matched {self.matched} of {self.total} keys"]
        for reason, keys in self.left.items():
            some = ", ".join(keys[:named]) + (", ..." if len(keys) > named else "")
            parts.append(f"{len(keys)} {reason}: {some}")
        return "; ".join(parts)


@dataclass(frozen=True, eq=False)
class Adapter:
    """An adapter file for the networks that it was read for; the tensors stay in the mapped file until they are used.

    Attributes:
        changes: what it does to each network.
        kinds: which kinds of adapter it is made of, with the number of modules.
    """

    name: str
    changes: Mapping[Part, Changes]
    match: Match
    kinds: Mapping[str, int]


def read_adapter(path: Path, places: Places, formats: Sequence[AdapterFormatSpec] = ()) -> Adapter:
    """Read an adapter file for the networks of ``places``.

    Args:
        formats: of extensions; asked where no key is of Easel's own.
    Raises:
        NotFound, ModelUnsafe, ModelCorrupt: as ``read_header`` does.
        ModelUnsupported: if nothing in it fits these networks; the sentence says what was found.
    """
    header = read_header(path)
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            tensors = {key: file.get_tensor(key) for key in header.tensors}
    except FileNotFoundError:
        raise NotFound(f"{path.name} is not there any more.", "Look at the models folder.") from None
    except (SafetensorError, OSError) as error:
        raise ModelCorrupt(f"{path.name} cannot be read: {error}.", "Download it again.") from error
    adapter = parse_adapter(tensors, header.metadata, places, path.stem)
    if formats and _NO_ADAPTER in adapter.match.left and not adapter.kinds:
        adapter = _foreign(path, tensors, header.metadata, places, formats) or adapter
    if not adapter.match.matched:
        raise ModelUnsupported(
            f"{path.name} changes nothing in this checkpoint: {adapter.match.sentence()}.",
            "It was made for another kind of checkpoint, or is no adapter; choose another one.",
        )
    return adapter


def _foreign(
    path: Path,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    places: Places,
    formats: Sequence[AdapterFormatSpec],
) -> Adapter | None:
    """A file as the extension's format reads it that claims it; None: no one does."""
    shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    claimed = foreign_modules(path, shapes, metadata, formats)
    if claimed is None:
        return None
    spec, modules = claimed
    reading = _Reading(places, PeftMetadata(metadata))
    used: set[str] = set()
    reasons: dict[str, str] = {}
    for module in modules:
        candidates, reason = places.find(module.layer)
        if candidates:
            reason = reading.place(module.layer, change_of(spec, module, tensors), candidates)
        if reason is None:
            used |= set(module.keys.values())
        else:
            reasons |= dict.fromkeys(module.keys.values(), reason)
    for key in tensors:
        if key not in used:  # several modules may share a tensor
            reading.leave(reasons.get(key, _NO_ADAPTER), [key])
    return _adapter_of(path.stem, len(tensors), reading)


def parse_adapter(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str], places: Places, name: str = "adapter"
) -> Adapter:
    """Map the tensors of a file; what has no place is told in ``match`` and changes nothing."""
    reading = _Reading(places, PeftMetadata(metadata))
    modules: dict[str, dict[str, tuple[str, Tensor]]] = defaultdict(dict)  # stem -> role -> (key, tensor)
    for key, tensor in tensors.items():
        name_of_key = named(key)
        if name_of_key is None or (tensor.numel() == 0 and not tensor.is_floating_point()):
            reading.leave(_NO_ADAPTER, [key])
            continue
        roles = modules[one_spelling(name_of_key.stem)]
        if name_of_key.role in roles:
            reading.leave(_TWICE, [key])
        else:
            roles[name_of_key.role] = (key, tensor)
    for stem, roles in modules.items():
        reading.add(stem, {r: k for r, (k, _) in roles.items()}, {r: t for r, (_, t) in roles.items()})
    return _adapter_of(name, len(tensors), reading)


def _adapter_of(name: str, total: int, reading: _Reading) -> Adapter:
    left = {reason: tuple(keys) for reason, keys in reading.left.items()}
    match = Match(total - sum(map(len, left.values())), total, left)
    changes: dict[Part, Changes] = {
        part: {parameter: tuple(placed) for parameter, placed in found.items()}
        for part, found in reading.changes.items()
    }
    return Adapter(name, changes, match, dict(reading.kinds))


class _Reading:
    """Collects what the modules of one file become."""

    def __init__(self, places: Places, metadata: PeftMetadata) -> None:
        self.places = places
        self.metadata = metadata
        self.changes: dict[Part, dict[str, list[PlacedChange]]] = defaultdict(lambda: defaultdict(list))
        self.kinds: dict[str, int] = defaultdict(int)
        self.left: dict[str, list[str]] = defaultdict(list)
        self._taken: dict[tuple[Place, str], str] = {}  # by which stem

    def leave(self, reason: str, keys: Sequence[str]) -> None:
        """Keep keys that are not used, with the reason."""
        self.left[reason].extend(keys)

    def add(self, stem: str, keys: Mapping[str, str], tensors: Mapping[str, Tensor]) -> None:
        """One module of the file: all its kinds, each at the first place where its shape fits."""
        candidates, why_not = self.places.find(stem)
        found = [(kind, chosen) for kind in KINDS if (chosen := kind.chosen(tensors)) is not None]
        used = {role for _, chosen in found for role in chosen}
        unread = [key for role, key in keys.items() if role not in used]
        if not candidates:
            self.leave(why_not if found else _NO_ADAPTER, list(keys.values()))
            return
        if unread:
            self.leave(_BESIDE if found else _INCOMPLETE, unread)
        reasons: dict[str, str] = {}
        fitted: set[str] = set()
        for kind, chosen in found:
            try:
                scale = scale_of(kind, chosen, partial(self.metadata.scale, stem))
            except _SHAPE_ERRORS:
                reasons |= dict.fromkeys(chosen, _ANOTHER_SHAPE)
                continue
            reason = self.place(stem, Change(kind, chosen, scale), candidates)
            if reason is None:
                fitted |= chosen.keys()
            else:
                reasons |= dict.fromkeys(chosen, reason)
        for role, reason in reasons.items():
            if role not in fitted:  # a LoRA's tensors may serve its weight and its bias
                self.leave(reason, [keys[role]])

    def place(self, stem: str, change: Change, candidates: Sequence[Place]) -> str | None:
        """Put a change where it fits; else say why nowhere."""
        reason = _NO_PARAMETER
        kind: Kind = change.kind
        for place in candidates:
            layer = self.places.modules[place.part].get_submodule(place.layer)
            shape = weight_shape(layer) if kind.parameter == "weight" else _shape(getattr(layer, "bias", None))
            if shape is None:
                continue
            placed = PlacedChange(change, place.rows, place.swapped)
            if not _fits(placed, shape):
                reason = _ANOTHER_SHAPE
            elif self._taken.setdefault((place, kind.parameter), stem) != stem:
                return _TWICE
            else:
                self.changes[place.part][f"{place.layer}.{kind.parameter}"].append(placed)
                self.kinds[change.name] += 1
                return None
        return reason


def _shape(parameter: object) -> tuple[int, ...] | None:
    return tuple(parameter.shape) if isinstance(parameter, Tensor) else None


def _fits(placed: PlacedChange, shape: tuple[int, ...]) -> bool:
    """Whether a change can be added to a parameter of that shape, tried on tensors without memory."""
    empty = torch.empty(shape, device="meta")
    try:
        return placed.of(empty).shape == placed.region(empty).shape
    except _SHAPE_ERRORS:
        return False
