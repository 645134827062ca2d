"""The scale that diffusers and PEFT tell in a header's ``lora_adapter_metadata``, for modules without an alpha.

Source: diffusers 0.42.1 ``loaders/lora_base.py`` (one JSON, keys ``unet.r`` ...) and ``loaders/peft.py`` (keys ``r``
...); peft 0.21.2 ``get_pattern_key``.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

FIELD = "lora_adapter_metadata"
MAX_PATTERN = 500  # characters: a pattern comes from a stranger's file


class PeftMetadata:
    """Ranks and alphas by component ("unet", "transformer", "text_encoder" ...), as the header tells them."""

    def __init__(self, metadata: Mapping[str, str]) -> None:
        self._components: dict[str, dict[str, Any]] = {}
        try:
            entries = json.loads(metadata.get(FIELD, "{}"))
        except (ValueError, RecursionError):
            entries = {}
        for key, value in entries.items() if isinstance(entries, dict) else ():
            component, _, name = key.rpartition(".")
            self._components.setdefault(component, {})[name] = value

    def scale(self, stem: str, rank: int) -> float | None:
        """alpha / rank of a module, or alpha / sqrt(rank) of a rank-stabilised adapter; None where nothing is told.

        Args:
            stem: the module's name with its component in front.
            rank: the size of its tensors, which is the truth where the header tells another.
        """
        component, _, layer = stem.partition(".")
        if component not in self._components:  # a file of one network, whose names and entries have none in front
            component, layer = "", stem
        told = self._components.get(component, {})
        alpha = told.get("lora_alpha")
        patterns = told.get("alpha_pattern")
        for pattern, value in patterns.items() if isinstance(patterns, dict) else ():
            if _names(pattern, layer):
                alpha = value
                break
        if not isinstance(alpha, (int, float)) or not math.isfinite(alpha):
            return None
        return alpha / (math.sqrt(rank) if told.get("use_rslora") is True else rank)


def _names(pattern: str, layer: str) -> bool:
    """Whether a pattern, a layer's last parts mostly, names this layer.

    PEFT takes it for a regular expression; here only what such files hold is: names, ``.*`` and ``\\d+``. Anything
    else could be made to run for hours.
    """
    if len(pattern) > MAX_PATTERN:
        return False
    plain = re.escape(pattern.lstrip("^").rstrip("$").replace("\\.", "."))
    plain = plain.replace(re.escape(".*"), ".*").replace(re.escape("\\d+"), r"\d+")
    return re.fullmatch(rf"(.*\.)?{plain}", layer) is not None
