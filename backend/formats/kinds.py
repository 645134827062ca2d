"""How a whole file that is no checkpoint and no part of ours is recognised; the rows are in ``other_kinds.py``.

The first row that holds speaks, so special kinds stand before general ones. What family a file was made for is told
by rows of its own: keys, and the sizes behind them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from backend.formats.measure import Tensors


@dataclass(frozen=True)
class MadeFor:
    """A family that a file may have been made for.

    Attributes:
        family: as written for a person.
        pattern: searched in every key.
        axis, sizes: one tensor with such a key has one of these sizes there; no sizes: the key is enough.
    """

    family: str
    pattern: str
    axis: int = -1
    sizes: tuple[int, ...] = ()


@dataclass(frozen=True)
class SaidFor:
    """What a header field says of the base model, for files whose shapes tell nothing.

    Attributes:
        field: of the header's metadata.
        begins: how the value begins, in lower case.
    """

    family: str
    field: str
    begins: str


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        name: as in "looks like a ...".
        belongs_in: folder under models/; empty: nowhere.
        has: keys; any one of them is enough.
        pattern: searched in every key where ``has`` found nothing; empty: not searched.
        shape: (key, axis, size) that must hold besides.
        made_for: the families, of which the first that holds counts.
    """

    name: str
    belongs_in: str
    has: tuple[str, ...] = ()
    pattern: str = ""
    shape: tuple[str, int, int] | None = None
    made_for: tuple[MadeFor, ...] = ()


class Keys:
    """The keys of a file, searched as one text: a pattern over thousands of keys then costs microseconds."""

    def __init__(self, tensors: Tensors) -> None:
        self.tensors = tensors
        self._text = ""

    def matching(self, pattern: str) -> Iterator[str]:
        """The keys in which the pattern (no anchors but ``^`` and ``$``) is found."""
        if not self._text:
            self._text = "\n".join(self.tensors) + "\n"
        text, position = self._text, 0
        search = re.compile(pattern, re.MULTILINE).search
        while position < len(text) and (match := search(text, position)):
            begin, end = text.rfind("\n", 0, match.start()) + 1, text.index("\n", match.start())
            yield text[begin:end]
            position = end + 1

    def size(self, key: str, axis: int) -> int | None:
        """Size of an axis of a tensor; None if there is none."""
        info = self.tensors.get(key)
        if info is None or not -len(info.shape) <= axis < len(info.shape):
            return None
        return info.shape[axis]


def first_kind(kinds: Sequence[Kind], keys: Keys) -> Kind | None:
    """The first kind that holds."""
    return next((kind for kind in kinds if _holds(kind, keys)), None)


def family_of(kind: Kind, keys: Keys) -> str:
    """The family that a file of this kind was made for; empty if nothing tells."""
    return next((row.family for row in kind.made_for if _is_for(row, keys)), "")


def said_family(rows: Sequence[SaidFor], metadata: Mapping[str, str]) -> str:
    """The family that the metadata names; empty if it names none."""
    return next((row.family for row in rows if metadata.get(row.field, "").lower().startswith(row.begins)), "")


def _holds(kind: Kind, keys: Keys) -> bool:
    found = any(key in keys.tensors for key in kind.has)
    if not found and kind.pattern:
        found = any(True for _ in keys.matching(kind.pattern))
    if not found or kind.shape is None:
        return found
    key, axis, size = kind.shape
    return keys.size(key, axis) == size


def _is_for(row: MadeFor, keys: Keys) -> bool:
    return any(not row.sizes or keys.size(key, row.axis) in row.sizes for key in keys.matching(row.pattern))
