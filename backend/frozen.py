"""JSON values that cannot change and can be compared and hashed: what extensions add to a request."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NoReturn

MAX_DEPTH = 8
MAX_SIZE = 200_000  # characters of JSON


class FrozenDict(dict[str, Any]):
    """A dict that refuses to change; equal ones have equal hashes. JSON and ``dataclasses.asdict`` take it as it is."""

    def __hash__(self) -> int:  # type: ignore[override]  # dict's own is None
        return hash(json.dumps(self, sort_keys=True))

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError("a request cannot be changed; make another with dataclasses.replace")

    __setitem__ = __delitem__ = __ior__ = _refuse  # type: ignore[assignment]
    clear = pop = popitem = setdefault = update = _refuse  # type: ignore[assignment]


def frozen(value: object, depth: int = MAX_DEPTH) -> Any:
    """JSON types with every object as ``FrozenDict`` and every list as a tuple.

    Raises:
        ValueError: for anything that is no JSON value, nested too deep, or a number that is not finite.
    """
    if depth < 0:
        raise ValueError(f"is nested more than {MAX_DEPTH} deep")
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if value != value or value in (float("inf"), float("-inf")):
            raise ValueError("holds a number that is not finite")
        return value
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise ValueError("holds a name that is no text")
        return FrozenDict({key: frozen(item, depth - 1) for key, item in value.items()})
    if isinstance(value, list | tuple):
        return tuple(frozen(item, depth - 1) for item in value)
    raise ValueError(f"holds a {type(value).__name__}, which is no JSON value")
