"""The folder of a training run: float32 weights and a log, written so that a stopped run can go on."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor


def save_weights(path: Path, weights: Mapping[str, Mapping[str, Tensor]], facts: Mapping[str, Any]) -> None:
    """Write every part's tensors as ``part.name``, and facts as JSON; the old file stays until the new is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {f"{part}.{name}": value.contiguous() for part, state in weights.items() for name, value in state.items()}
    temporary = path.with_suffix(f".tmp{os.getpid()}")
    save_file(tensors, temporary, metadata={"facts": json.dumps(dict(facts))})
    temporary.replace(path)


def load_weights(path: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """What ``save_weights`` wrote: the parts' state dicts and the facts."""
    parts: dict[str, dict[str, Tensor]] = {}
    for full, value in load_file(path).items():
        part, name = full.split(".", 1)
        parts.setdefault(part, {})[name] = value
    with safe_open(path, "pt") as file:
        facts = json.loads((file.metadata() or {}).get("facts", "{}"))
    return parts, facts


def log_line(path: Path, **values: float | str) -> None:
    """Append one JSON line to a run's log."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(values) + "\n")
