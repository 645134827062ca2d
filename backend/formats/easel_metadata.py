"""What a checkpoint says of itself in ``easel.*`` header fields: JSON that overrides what shapes and constants tell.

Published files have none of them. The project's own checkpoints state what shapes cannot (group norms, latent scale,
token ids, tokenizers, default settings); ``backend/checkpoints/save.py`` writes the fields that are read here.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from backend.errors import ModelCorrupt, ModelUnsupported

FORMAT_VERSION = 1

Config = TypeVar("Config")
Check = Callable[[Any], bool]


def _whole(low: int, high: int) -> Check:
    return lambda value: type(value) is int and low <= value <= high


def _number(low: float, high: float) -> Check:
    return lambda value: type(value) in (int, float) and math.isfinite(value) and low <= value <= high


def _text(*choices: str) -> Check:
    return lambda value: isinstance(value, str) and len(value) <= 64 and (not choices or value in choices)


def _optional(check: Check) -> Check:
    return lambda value: value is None or check(value)


def _colour(value: object) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(_number(-100, 100)(n) for n in value)


def _colours(value: object) -> bool:
    return isinstance(value, list) and len(value) <= 256 and all(_colour(row) for row in value)


_TOKEN = _whole(0, 10_000_000)
_CLIP: Mapping[str, Check] = {
    "bos": _TOKEN,
    "eos": _TOKEN,
    "pad": _TOKEN,
    "heads": _whole(1, 1024),
    "activation": _text("quick_gelu", "gelu"),
}

#: Header field -> its members -> what a valid value is.
FIELDS: Mapping[str, Mapping[str, Check]] = {
    "easel.unet": {
        "norm_groups": _whole(1, 1024),
        "head_dim": _optional(_whole(1, 1024)),
        "heads": _optional(_whole(1, 1024)),
    },
    "easel.mmdit": {"heads": _whole(1, 1024)},
    "easel.vae": {"norm_groups": _whole(1, 1024)},
    "easel.latent": {
        "scale": _number(1e-6, 1e6),
        "shift": _number(-1e6, 1e6),
        "rgb_factors": _colours,
        "rgb_bias": _colour,
    },
    "easel.clip_l": _CLIP,
    "easel.clip_g": _CLIP,
    "easel.clip_h": _CLIP,
    "easel.t5": {"min_length": _whole(1, 4096), "max_length": _whole(1, 4096)},
    "easel.defaults": {
        "width": _whole(64, 4096),
        "height": _whole(64, 4096),
        "steps": _whole(1, 150),
        "cfg_scale": _number(1, 30),
        "sampler": _text(),
        "schedule": _text(),
        "shift": _optional(_number(0.1, 20)),
    },
}


def check_version(metadata: Mapping[str, str]) -> None:
    """Refuse a checkpoint that a newer Easel wrote.

    Raises:
        ModelUnsupported: if its format version is not ours.
    """
    version = metadata.get("easel.format", str(FORMAT_VERSION))
    if version != str(FORMAT_VERSION):
        raise ModelUnsupported(
            f"The checkpoint has Easel format {version[:20]!r}; this version reads {FORMAT_VERSION}.", "Update Easel."
        )


def overridden(config: Config, metadata: Mapping[str, str], field: str) -> Config:
    """``config`` (a frozen dataclass) with what the header field says in place of what was measured.

    Raises:
        ModelCorrupt: if the field is no JSON object, has an unknown member or a value out of bounds.
    """
    if field not in metadata:
        return config
    try:
        values = json.loads(metadata[field], parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise ModelCorrupt(f"The header field {field} is not valid JSON.", "Download the file again.") from None
    if not isinstance(values, dict):
        raise ModelCorrupt(f"The header field {field} is not a JSON object.", "Download the file again.")
    for name, value in values.items():
        check = FIELDS[field].get(name)
        if check is None:
            raise ModelCorrupt(f"The header field {field} has an unknown member {name[:40]!r}.", "Update Easel.")
        if not check(value):
            raise ModelCorrupt(f"The header field {field} has an invalid {name}: {str(value)[:60]!r}.")
    return dataclasses.replace(config, **{name: _frozen(value) for name, value in values.items()})  # type: ignore[type-var]


def written(field: str, config: object) -> str:
    """The JSON of a header field: those members of ``config`` that the field has."""
    return json.dumps({name: getattr(config, name) for name in FIELDS[field]}, separators=(",", ":"))


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")
