"""Which blocks a panel's text field means, and the term that a branch with a weakened network gives."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from backend.api import ModelView, Outputs


def named_blocks(text: str, model: ModelView) -> tuple[str, ...]:
    """The blocks in a list divided by commas; an empty one means the middle."""
    return tuple(name.strip() for name in text.split(",") if name.strip()) or middle_blocks(model)


def middle_blocks(model: ModelView) -> tuple[str, ...]:
    """The block with attention that is nearest to half way: a U-Net's middle, or the middle one of an MMDiT."""
    attending = [place for place in model.places if place.attention in ("self", "joint")]
    nearest = min(attending, key=lambda place: abs(place.depth - 0.5))
    return (nearest.block,)


def away_from(branch: str, scale: float) -> Callable[[Tensor, Outputs], Tensor]:
    """``guided + scale * (cond - branch)`` on clean latents."""

    def change(guided: Tensor, outputs: Outputs) -> Tensor:
        return guided + scale * (outputs.denoised["cond"] - outputs.denoised[branch])

    return change
