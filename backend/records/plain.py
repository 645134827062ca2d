"""Frozen records of ``backend.formats`` as JSON text and back: any dataclass there, with new fields and new classes.

Each record carries the name of its class, so that nothing depends on annotations. JSON arrays come back as tuples,
which is what frozen records hold.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

from backend import errors
from backend.errors import UserError

_CLASS, _PATH, _ERROR = "@class", "@path", "@error"
_HOME = "backend.formats."


def to_text(value: object) -> str:
    """A record, or an error in its place, as JSON.

    Raises:
        TypeError: it holds something that has no form in JSON.
    """
    return json.dumps(_plain(value), ensure_ascii=True, separators=(",", ":"))


def from_text(text: str) -> Any:
    """What ``to_text`` was given.

    Raises:
        ValueError: the text is damaged, or of another version's records.
    """
    try:
        value = json.loads(text, object_hook=_record)
    except (KeyError, TypeError, AttributeError, ImportError, RecursionError) as error:
        raise ValueError(f"not a record of this version: {error}") from error
    if not is_dataclass(value) and not isinstance(value, UserError):
        raise ValueError(f"not a record but a {type(value).__name__}")
    return value


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, Path):
        return {_PATH: str(value)}
    if isinstance(value, UserError):
        return {_ERROR: type(value).__name__, "what": value.what, "todo": value.todo, "field": value.field}
    if is_dataclass(value):
        kind = type(value)
        if not kind.__module__.startswith(_HOME):
            raise TypeError(f"{kind.__name__} is no record of {_HOME[:-1]}")
        told = {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
        return {_CLASS: f"{kind.__module__.removeprefix(_HOME)}:{kind.__name__}", **told}
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: _plain(each) for key, each in value.items()}
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def _record(told: dict[str, Any]) -> Any:
    """What a JSON object stands for; called from the innermost outwards."""
    for key, value in told.items():
        if type(value) is list:
            told[key] = _tuples(value)
    if _CLASS in told:
        return _class(told.pop(_CLASS))(**told)
    if _PATH in told:
        return Path(told[_PATH])
    if _ERROR in told:
        return _error(told[_ERROR])(told["what"], told["todo"], field=told["field"])
    return told


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if type(value) is list else value


@cache
def _class(name: str) -> type[Any]:
    module, _, kind_name = name.partition(":")
    kind = getattr(importlib.import_module(_HOME + module), kind_name)
    if not (isinstance(kind, type) and is_dataclass(kind)):
        raise TypeError(f"{name} is no record")
    return kind


@cache
def _error(name: str) -> type[UserError]:
    kind = getattr(errors, name)
    if not (isinstance(kind, type) and issubclass(kind, UserError)):
        raise TypeError(f"{name} is no error of ours")
    return kind
