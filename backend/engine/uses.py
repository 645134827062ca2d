"""Who has which parts in hand: what is in use never leaves, and work beside a job gets only what fits beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from backend.errors import OutOfMemory

if TYPE_CHECKING:
    from backend.engine.parts import PartKey

LOOKS_EVERY = 0.2  # seconds between two looks of a waiting job at whether it was cancelled


def _never() -> None:
    """Nobody cancels."""


def _nobody(_sentence: str) -> None:
    """Nobody is told."""


@dataclass(eq=False)
class Use:
    """A piece of work and the parts that it has in hand, until it ends.

    Attributes:
        beside: what it is called, if it runs beside jobs (an action): it is refused what does not fit, and a job that
            needs the room waits for its end. "": it is a job's own: that gets what it asks for.
        check: called while it waits; raises ``Cancelled``.
        tell: gets a sentence for the user when it begins to wait.
        keys: of the parts, those included that are being loaded.
        is_over: it may have nothing more.
    """

    beside: str = ""
    check: Callable[[], None] = _never
    tell: Callable[[str], None] = _nobody
    keys: set[PartKey] = field(default_factory=set)
    is_over: bool = False

    def refuse_when_over(self) -> None:
        """Raise ``OutOfMemory`` for work that was ended from outside and asks for more."""
        if self.is_over:
            raise OutOfMemory(f"{self.beside or 'This work'} is over: it gets no more networks.", field="extensions")


def no_room(key: PartKey, use: Use, budget: int, in_use: int) -> OutOfMemory:
    """What is said of a part for which there is no room."""
    if key.bytes > budget:
        todo = "Use a smaller one, or start Easel with a larger --memory-gb."
    else:
        todo = "Try again when the running job is finished, or start Easel with a larger --memory-gb."
    others = f", {_mib(in_use)} of which are in use" if in_use else ""
    return OutOfMemory(
        f"{key.name} takes {_mib(key.bytes)} for {use.beside or 'this job'}. Easel may use {_mib(budget)} for "
        f"models{others}.",
        todo,
        field="extensions",
    )


def _mib(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB" if size >= 2**20 else f"{size / 2**10:,.1f} KiB"
