"""All requests of an order looked at before the first is made: what would be refused is refused at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from backend.engine.expansion import Part
from backend.records.tags import check_tags
from backend.request import GenerationRequest

if TYPE_CHECKING:
    from backend.engine.engine import Engine


def checked(engine: Engine, parts: Sequence[Part]) -> list[GenerationRequest]:
    """The parts' requests with every field filled; nothing is loaded.

    Raises:
        UserError: as ``Engine.generate`` would in the middle of the order.
    """
    found: list[GenerationRequest] = []
    for part in parts:
        resolved, info = engine.resolved(part.request)
        engine.extensions.values(resolved.request)
        check_tags(resolved.request, info, engine.registry, engine.catalog.adapter)
        found.append(resolved.request)
    return found
