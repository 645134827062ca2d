"""How strongly each residual counts: the weight, and the control mode."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

Mode = Literal["balanced", "prompt is more important", "control is more important"]

# Source: sd-webui-controlnet, ``scripts/hook.py``. Each block against the one after it, and a T2I-Adapter's levels.
_FADING = 0.825
_LEVELS = (0.25, 0.62, 0.825, 1.0)


def strength_of(weight: float, mode: Mode, *, is_adapter: bool) -> Callable[[int, int], float]:
    """The strength of residual ``number`` of ``count``, the first block's being number 0.

    "balanced" is the weight everywhere. Both other modes let early blocks, which place things, count less than late
    ones; "control is more important" also leaves the negative prompt unguided, so that CFG drives towards the hint
    (``leaves_out_uncond``).
    """

    def strength(number: int, count: int) -> float:
        if mode == "balanced":
            return weight
        if is_adapter:
            return weight * _LEVELS[min(number, len(_LEVELS) - 1)]
        return weight * _FADING ** (count - 1 - number)

    return strength


def leaves_out_uncond(mode: Mode) -> bool:
    """Whether the negative prompt's branch stays as it is."""
    return mode == "control is more important"
