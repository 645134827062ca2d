"""Patches at work: what a network can honour, how they compose at a place, and the set of them that a job has."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from backend.diffusion.boxes import cut_region, region_map
from backend.diffusion.patching import (
    QKV,
    AttentionBias,
    AttentionInput,
    AttentionOutput,
    AttentionReplace,
    BlockInput,
    BlockOutput,
    BlockReplace,
    BlockState,
    Call,
    ModelCall,
    NetworkInputs,
    Patch,
    PatchRefused,
    Place,
    Residuals,
    SkipBlock,
    VaeDecode,
    VaeEncode,
)
from backend.diffusion.residuals import Residual, summed, within

P = TypeVar("P", bound=Patch)


def check_patches(patches: Sequence[Patch], places: Sequence[Place]) -> None:
    """Refuse what this network cannot honour and what cannot stand together.

    Args:
        places: every block and attention of the network.
    Raises:
        PatchRefused: a patch of the network that acts nowhere in it, a skip that cannot be done, two replacements of
            one point whose scopes meet, or one that cannot go with tiles; the patches are named.
    """
    for patch in patches:
        if isinstance(patch, Residuals) and (patch.scope.blocks or patch.scope.attentions):
            raise PatchRefused(f"{patch.name} adds to all blocks; its scope cannot name some.", field="extensions")
        if patch.in_network and not _acting(patch, places):
            known = ", ".join(dict.fromkeys(place.block for place in places))
            raise PatchRefused(
                f"{patch.name} acts on blocks {', '.join(patch.scope.blocks) or 'of any name'}"
                f"{' and attentions ' + ', '.join(patch.scope.attentions) if patch.scope.attentions else ''}, "
                f"which this checkpoint's network does not have.",
                f"Its blocks are: {known[:300]}.",
                field="extensions",
            )
    _check_tiles(patches)
    replacing = [patch for patch in patches if patch.replaces]
    for i, first in enumerate(replacing):
        for second in replacing[i + 1 :]:
            if type(first) is type(second) and first.scope.meets(second.scope) and _at_one_place(first, second, places):
                raise PatchRefused(
                    f"{first.name} and {second.name} both replace the same thing at the same time.",
                    "Switch one of them off, or give them other blocks, steps or branches.",
                    field="extensions",
                )


def _check_tiles(patches: Sequence[Patch]) -> None:
    """Refuse a patch that must see the whole picture beside one that hands the network parts of it."""
    for number, tiling in enumerate(patches):
        if not (isinstance(tiling, ModelCall) and tiling.makes_tiles):
            continue
        inside = [p for p in patches if p.in_network] + [p for p in patches[number + 1 :] if isinstance(p, ModelCall)]
        lost = next((p for p in inside if not p.in_tiles and p.scope.meets(tiling.scope)), None)
        if lost is not None:
            raise PatchRefused(
                f"{tiling.name} hands the network parts of the picture, and {lost.name} must see the whole of it.",
                "Switch one of them off, or give them other steps.",
                field="extensions",
            )


def _acting(patch: Patch, places: Sequence[Place]) -> list[Place]:
    """The places of its own kind at which a patch of the network acts."""
    on_attention = isinstance(patch, AttentionInput | AttentionBias | AttentionReplace | AttentionOutput)
    held = [p for p in places if (p.attention is not None) == on_attention and patch.scope.holds(p)]
    if not isinstance(patch, SkipBlock):
        return held
    transforming = {place.block for place in places if place.attention is not None}
    return [place for place in held if place.block in transforming]


def _at_one_place(first: Patch, second: Patch, places: Sequence[Place]) -> bool:
    if not first.in_network:
        return True
    shared = set(_acting(first, places)) & set(_acting(second, places))
    return bool(shared)


class Patched:
    """The patches of one network call, as the network asks for them at its places."""

    def __init__(self, patches: Sequence[Patch], call: Call) -> None:
        self.call = call
        self._patches = patches
        self._known: dict[tuple[type[Patch], Place], tuple[Any, ...]] = {}

    def at(self, kind: type[P], place: Place) -> tuple[P, ...]:
        """Those of a kind that act at a place, in order."""
        key = (kind, place)
        if key not in self._known:
            self._known[key] = tuple(p for p in self._patches if isinstance(p, kind) and p.scope.holds(place))
        return self._known[key]

    @property
    def has_any(self) -> bool:
        """Whether anything acts on this call."""
        return bool(self._patches)

    def residuals(self, inputs: NetworkInputs) -> Residual | None:
        """What guidance networks add to this call."""
        found: list[Residual] = []
        for patch in self._patches:
            if isinstance(patch, Residuals) and (given := patch.compute(inputs, self.call)) is not None:
                region = patch.scope.region
                seen = None if region is None else seen_region(region, self.call)
                found.append(given if seen is None else within(given, seen, *inputs.x.shape[-2:]))
        return summed(found) if found else None

    def skips(self, place: Place) -> bool:
        """Whether the block is left out."""
        return bool(self.at(SkipBlock, place))

    def attention(self, place: Place, qkv: QKV, attend: Callable[..., Tensor]) -> Tensor:
        """An attention with everything that acts on it; ``attend(q, k, v, bias)`` is the plain one."""
        call = self.call
        for before in self.at(AttentionInput, place):
            qkv = before.change(qkv, place, call)
        biases = [bias for patch in self.at(AttentionBias, place) if (bias := patch.bias(qkv, place, call)) is not None]
        bias = _bias4d(sum(biases[1:], biases[0]), qkv) if biases else None

        def plain(inputs: QKV) -> Tensor:
            return attend(*inputs, bias)

        out = plain(qkv) if not self.at(AttentionReplace, place) else None
        for patch in self.at(AttentionReplace, place):
            new = patch.replace(qkv, place, call, plain)
            out = self._blended(patch, place, new, lambda: plain(qkv), token_axis=2)
        assert out is not None  # noqa: S101 - one of the two was run
        for after in self.at(AttentionOutput, place):
            old = out
            new = after.change(old, qkv, place, call)
            out = self._blended(after, place, new, lambda old=old: old, token_axis=2)
        return out

    def block(self, place: Place, state: BlockState, run: Callable[[BlockState], BlockState]) -> BlockState:
        """A block with everything that acts on it."""
        call = self.call
        for before in self.at(BlockInput, place):
            state = self._blended_state(before, place, before.change(state, place, call), state)
        replacing = self.at(BlockReplace, place)
        state = replacing[0].replace(state, place, call, run) if replacing else run(state)
        for after in self.at(BlockOutput, place):
            state = self._blended_state(after, place, after.change(state, place, call), state)
        return state

    def _blended_state(self, patch: Patch, place: Place, new: BlockState, old: BlockState) -> BlockState:
        if patch.scope.region is None:
            return new
        if new.image.ndim == 4:
            seen = seen_region(patch.scope.region, self.call)
            weight = region_map(seen, new.image.shape[2], new.image.shape[3]).to(new.image)
            return new._replace(image=torch.lerp(old.image, new.image, weight.expand_as(new.image)))
        return new._replace(image=self._blended(patch, place, new.image, lambda: old.image, token_axis=1))

    def _blended(
        self, patch: Patch, place: Place, new: Tensor, old: Callable[[], Tensor], *, token_axis: int
    ) -> Tensor:
        """``new`` where the patch's region is 1, ``old`` where it is 0; text tokens take the change as a whole."""
        region = patch.scope.region
        if region is None:
            return new
        weight = region_tokens(region, self.call, place).to(new)  # (N,)
        text = new.shape[token_axis] - len(weight)
        weight = torch.cat([weight.new_ones(text), weight]) if text > 0 else weight
        shape = [1] * new.ndim
        shape[token_axis] = len(weight)
        return torch.lerp(old(), new, weight.view(shape).expand_as(new))


def _bias4d(bias: Tensor, qkv: QKV) -> Tensor:
    """With as many axes, and of the dtype, as torch's attention wants."""
    return bias.to(qkv.q).reshape(*[1] * (4 - bias.ndim), *bias.shape).expand(-1, -1, qkv.q.shape[2], -1)


def token_grid(call: Call, place: Place) -> tuple[int, int]:
    """Rows and columns of the image's tokens at a place; a U-Net halves its sides rounding up."""
    height, width = call.height, call.width
    if place.stage == "joint":
        return height // place.scale, width // place.scale
    for _ in range(place.scale.bit_length() - 1):
        height, width = (height + 1) // 2, (width + 1) // 2
    return height, width


def seen_region(region: Tensor, call: Call) -> Tensor:
    """The part of a region of the picture, (h, w) at any size, that a call sees."""
    tile = call.tile
    if tile is None:
        return region
    return cut_region(region, tile.top, tile.left, (call.height, call.width), tile.whole)


def region_tokens(region: Tensor, call: Call, place: Place) -> Tensor:
    """A region of the picture, (h, w), as one weight for each image token at a place, (N,), row by row."""
    return region_map(seen_region(region, call), *token_grid(call, place)).flatten()


@dataclass(frozen=True, eq=False)
class PatchSet:
    """The patches of a job, for the denoise loop."""

    patches: tuple[Patch, ...] = ()

    def of(self, kind: type[P], step: int | None = None, steps: int = 1) -> tuple[P, ...]:
        """Those of a kind, in order; with ``step`` only those whose window it is in."""
        return tuple(p for p in self.patches if isinstance(p, kind) and (step is None or p.scope.acts_at(step, steps)))

    @cached_property
    def in_network(self) -> tuple[Patch, ...]:
        """Those that networks ask for."""
        return tuple(patch for patch in self.patches if patch.in_network)

    def on_branch(self, branch: str, step: int, steps: int) -> tuple[Patch, ...]:
        """Those of the network that act on a branch in a step: branches that agree in them share a call."""
        return tuple(p for p in self.in_network if p.scope.acts_at(step, steps) and p.scope.covers(branch))


NO_PATCHES = PatchSet()


def around(run: Callable[[Tensor], Tensor], patches: Sequence[VaeDecode | VaeEncode]) -> Callable[[Tensor], Tensor]:
    """``run`` with the patches around it, the first one outermost."""
    for patch in reversed(patches):
        run = partial(_wrapped, patch, run)
    return run


def _wrapped(patch: VaeDecode | VaeEncode, run: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return patch.wrap(x, run)


def owned(patches: Iterable[Patch], owner: str) -> list[Patch]:
    """The patches with their owner's name."""
    return [replace(patch, owner=owner) for patch in patches]
