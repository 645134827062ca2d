"""How other programs write a panel's values in A1111's parameters text: rows of facts that an extension declares.

No function of an extension runs where texts are read (the web process has no torch), so what a key means is data.
``panel_texts`` reads and writes by it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from dataclasses import field as made_by  # a row has a field of that name
from typing import Any


@dataclass(frozen=True)
class TextKey:
    """One value, as others write it: ``Resize Mode: Crop and Resize``.

    Args:
        key: what stands before the colon; its case does not count.
        field: of the panel that it sets; ``options.low``: of the settings of what another field names; "": none.
        values: their word -> ours, where they differ; the first of several that mean the same is written. Words that
            are not here are taken as they are, if the field takes them. A key without a field says here which words
            may go without a sentence; "*": all.
        near: their word -> ours for what is not the same, but comes near: it is taken, and the user is told.
        only_if: ``(field, value)`` of the panel: otherwise the key means nothing, or something else in another row.
        scale: their number times this is ours.
        also: other spellings that are read. ``(0.1, 0.9)`` is read as two values, ``KEY 1`` and ``KEY 2``.
        constant: what is written by a key without a field.
    """

    key: str
    field: str = ""
    values: Mapping[str, str] = made_by(default_factory=dict)
    near: Mapping[str, str] = made_by(default_factory=dict)
    only_if: tuple[str, str] | None = None
    scale: float = 1.0
    also: tuple[str, ...] = ()
    constant: str = ""

    @property
    def path(self) -> tuple[str, str]:
        """The panel's field, and the name among its options or ""."""
        name, _, option = self.field.partition(".")
        return name, option

    @property
    def spellings(self) -> tuple[str, ...]:
        """All that are read, folded."""
        return tuple(folded(each) for each in (self.key, *self.also))


@dataclass(frozen=True)
class PanelText:
    """Where a panel's values stand in such a text.

    Args:
        keys: what is written, in this order, a field once.
        group: the units of an extension as one key each, ``ControlNet 0: "Module: canny, Weight: 1"``: here
            ``ControlNet``. Units are counted from 0 over all panels with this group. Older writers' ``ControlNet-0
            Module: canny`` and ``ControlNet Module: canny`` are read, too.
        switch: without a group, the keys that say that the panel is on, ``freeu_enabled``; the first is written.
        claims: ``(key, patterns)``: of a group's units those are the panel's whose value of a key matches one.
    """

    keys: tuple[TextKey, ...]
    group: str = ""
    switch: tuple[str, ...] = ()
    claims: tuple[str, tuple[str, ...]] | None = None

    def __post_init__(self) -> None:
        """Refuse one that nobody could find in a text."""
        if bool(self.group) == bool(self.switch):
            raise ValueError("a panel's text has a group or a switch")
        if self.claims and not self.group:
            raise ValueError("only of a group's units can a panel claim some")

    def to_json(self) -> dict[str, Any]:
        """For the registry document."""
        return asdict(self)

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> PanelText:
        """What ``to_json`` gave, also after a way through JSON."""
        keys = tuple(
            TextKey(**{**row, "also": tuple(row["also"]), "only_if": _pair(row["only_if"])}) for row in told["keys"]
        )
        claims = told["claims"]
        return cls(keys, told["group"], tuple(told["switch"]), (claims[0], tuple(claims[1])) if claims else None)


def folded(key: str) -> str:
    """A key as it is compared: ``pixel_perfect`` is ``Pixel Perfect``."""
    return " ".join(key.casefold().replace("_", " ").split())


def _pair(given: Any) -> tuple[str, str] | None:
    return (given[0], given[1]) if given else None
