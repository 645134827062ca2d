"""The ``name.yaml`` that A1111 and Forge read beside a checkpoint: one word of it, ``parameterization``."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

MAX_BYTES = 100_000
_PLACE = ("model", "params", "parameterization")
_log = logging.getLogger(__name__)


def parameterization(file: Path) -> str | None:
    """What a training configuration says the network outputs, in small letters; None if there is no word of it.

    A file that is too large, or no YAML, says nothing; the log tells.
    """
    try:
        if not file.is_file():  # a FIFO must not block
            return None
        with file.open("rb") as opened:
            raw = opened.read(MAX_BYTES + 1)
    except OSError:
        return None
    if len(raw) > MAX_BYTES:
        _log.warning("%s has more than %d bytes and is not read", file.name, MAX_BYTES)
        return None
    value = _parsed(raw, file.name)
    for key in _PLACE:
        value = value.get(key) if isinstance(value, dict) else None
    return value.strip().lower() if isinstance(value, str) else None


def _parsed(raw: bytes, name: str) -> Any:
    import yaml  # a tenth of a second: only where there is such a file

    try:
        return yaml.safe_load(raw)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # bytes that are no text are a YAMLError too
        _log.warning("%s is no YAML that can be read: %s", name, str(error).replace("\n", " ")[:200])
        return None
