"""Patches: typed changes at declared points of the denoise loop and of the networks, the same on U-Net and MMDiT.

A job asks for patches; they act while it samples and leave nothing behind. Patches before and after a point compose in
the order of their extensions; a replacement stands alone: two of one point whose scopes meet are an error that names
both. A job without patches runs the networks' plain paths.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cached_property, partial
from typing import Any, ClassVar, Literal, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from backend.diffusion.conditioning import Conditioning
from backend.errors import UserError

Stage = Literal["down", "middle", "up", "joint"]
AttentionKind = Literal["self", "cross", "joint", "image"]


class PatchRefused(UserError):
    """A patch that the loaded network cannot honour, or two that cannot stand together."""

    code = "patch_refused"


class QKV(NamedTuple):
    """Queries, keys and values, (B, heads, T, head_dim) each; keys and values may have another T, or one row."""

    q: Tensor
    k: Tensor
    v: Tensor


class BlockState(NamedTuple):
    """What runs through a block. U-Net: image (B, C, h, w), no text. MMDiT: tokens (B, N, hidden) of both kinds."""

    image: Tensor
    text: Tensor | None = None


@dataclass(frozen=True)
class Place:
    """Where in a network something is called.

    Args:
        block: its name: "input.4", "middle.0", "output.3" in a U-Net, "joint.7" in an MMDiT.
        number: of the block, in order of execution, from 0.
        depth: 0.0 for the first block to 1.0 for the last.
        scale: latent cells a feature cell's side: 1, 2, 4 ... in a U-Net, the patch size in an MMDiT.
        layer: of the transformer within the block, and ``attention`` which of its attentions; None for the block.
    """

    block: str
    stage: Stage
    number: int
    depth: float
    scale: int
    layer: int = 0
    attention: AttentionKind | None = None


@dataclass(frozen=True)
class Call:
    """One call of the network.

    Attributes:
        step: being made, 0 to ``steps`` - 1; ``sigma`` its noise level.
        branches: the name of each branch in this call ("cond", "uncond", or one that a patch added), in order; the
            batch holds ``images`` rows for each.
        height, width: of the latent, in cells.
        text_tokens: of the context, T.
    """

    step: int
    steps: int
    sigma: float
    branches: tuple[str, ...]
    images: int
    height: int
    width: int
    text_tokens: int


@dataclass(frozen=True, eq=False)
class Scope:
    """Where and when a patch acts; what is left empty does not restrict it.

    Args:
        blocks: names or patterns of blocks: "middle.*", "joint.[0-9]".
        attentions: kinds of attention.
        branches: names of branches.
        start, end: shares of the steps: step i of n, when start <= i / n < end.
        region: (h, w), 0 to 1, at any size: how much of a change counts where in the picture.
    """

    blocks: tuple[str, ...] = ()
    attentions: tuple[AttentionKind, ...] = ()
    branches: tuple[str, ...] = ()
    start: float = 0.0
    end: float = 1.0
    region: Tensor | None = None

    def acts_at(self, step: int, steps: int) -> bool:
        """Whether the step is in its window."""
        return self.start <= step / steps < self.end

    def covers(self, branch: str) -> bool:
        """Whether it acts on a branch."""
        return not self.branches or branch in self.branches

    def holds(self, place: Place) -> bool:
        """Whether it acts at a place."""
        if self.attentions and place.attention is not None and place.attention not in self.attentions:
            return False
        return not self.blocks or any(fnmatchcase(place.block, pattern) for pattern in self.blocks)

    def meets(self, other: Scope) -> bool:
        """Whether both could act at one moment on one branch; blocks are compared where they are known."""
        in_time = self.start < other.end and other.start < self.end
        shared = set(self.branches) & set(other.branches)
        return in_time and (not self.branches or not other.branches or bool(shared))


@dataclass(frozen=True, kw_only=True, eq=False)
class Patch:
    """Base of all patches. ``owner`` is filled in by the engine; ``label`` says which of its patches it is."""

    scope: Scope = field(default_factory=Scope)
    label: str = ""
    owner: str = ""
    replaces: ClassVar[bool] = False
    in_network: ClassVar[bool] = True

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self.owner or 'a patch'}'s {self.label or type(self).__name__}"


@dataclass(frozen=True, kw_only=True, eq=False)
class AttentionInput(Patch):
    """Change queries, keys and values before an attention: ``change(qkv, place, call)``."""

    change: Callable[[QKV, Place, Call], QKV]


@dataclass(frozen=True, kw_only=True, eq=False)
class AttentionBias(Patch):
    """Add to an attention's scores: ``bias(qkv, place, call)`` -> broadcastable to (B, heads, T, S), or None.

    In a joint attention the text tokens come first, ``call.text_tokens`` of them. Several biases add up.
    """

    bias: Callable[[QKV, Place, Call], Tensor | None]


@dataclass(frozen=True, kw_only=True, eq=False)
class AttentionReplace(Patch):
    """Attend otherwise: ``replace(qkv, place, call, attend)`` -> (B, heads, T, head_dim).

    ``attend(qkv)`` is the plain attention, with every bias.
    """

    replace: Callable[[QKV, Place, Call, Callable[[QKV], Tensor]], Tensor]
    replaces: ClassVar[bool] = True


@dataclass(frozen=True, kw_only=True, eq=False)
class AttentionOutput(Patch):
    """Change what an attention gives, before its projection: ``change(out, qkv, place, call)``."""

    change: Callable[[Tensor, QKV, Place, Call], Tensor]


@dataclass(frozen=True, kw_only=True, eq=False)
class BlockInput(Patch):
    """Change what goes into a block: ``change(state, place, call)``."""

    change: Callable[[BlockState, Place, Call], BlockState]


@dataclass(frozen=True, kw_only=True, eq=False)
class BlockReplace(Patch):
    """Run a block otherwise, or not at all: ``replace(state, place, call, run)``; ``run(state)`` is the block."""

    replace: Callable[[BlockState, Place, Call, Callable[[BlockState], BlockState]], BlockState]
    replaces: ClassVar[bool] = True


@dataclass(frozen=True, kw_only=True, eq=False)
class BlockOutput(Patch):
    """Change what comes out of a block: ``change(state, place, call)``."""

    change: Callable[[BlockState, Place, Call], BlockState]


@dataclass(frozen=True, kw_only=True, eq=False)
class SkipBlock(Patch):
    """Leave out a block's own contribution: an MMDiT's whole block, a U-Net block's transformer.

    A U-Net's residual blocks change width and size, so that they stay; a block without a transformer cannot be skipped.
    """


@dataclass(frozen=True, kw_only=True, eq=False)
class ModelCall(Patch):
    """Go around a whole network call: ``wrap(x, call, run)`` -> (B, C, h, w); ``run(x)`` is the call.

    ``x`` is the scaled input, all branches of the call one after another.
    """

    wrap: Callable[[Tensor, Call, Callable[[Tensor], Tensor]], Tensor]
    in_network: ClassVar[bool] = False


@dataclass(frozen=True, kw_only=True, eq=False)
class AddBranch(Patch):
    """Evaluate the prompt once more in every step of the scope, under ``branch``; other patches act on it by name."""

    branch: str
    is_negative: bool = False
    in_network: ClassVar[bool] = False


@dataclass(frozen=True, eq=False)
class Outputs:
    """What the branches of a step gave, as clean latents (B, C, h, w); AND-joined prompts are summed by weight.

    Attributes:
        x, sigma: where the step stands; (x - denoised) / sigma is the slope dx/dsigma of any family.
        scale: the step's CFG scale.
    """

    denoised: Mapping[str, Tensor]
    x: Tensor
    sigma: float
    scale: float
    step: int
    steps: int


@dataclass(frozen=True, kw_only=True, eq=False)
class BeforeGuidance(Patch):
    """Change the branches' clean latents before they are combined: ``change(outputs)`` -> by name, those changed."""

    change: Callable[[Outputs], Mapping[str, Tensor]]
    in_network: ClassVar[bool] = False


@dataclass(frozen=True, kw_only=True, eq=False)
class CombineGuidance(Patch):
    """Combine the branches otherwise: ``combine(outputs)`` -> the guided clean latent."""

    combine: Callable[[Outputs], Tensor]
    replaces: ClassVar[bool] = True
    in_network: ClassVar[bool] = False


@dataclass(frozen=True, kw_only=True, eq=False)
class AfterGuidance(Patch):
    """Change the guided clean latent: ``change(guided, outputs)``."""

    change: Callable[[Tensor, Outputs], Tensor]
    in_network: ClassVar[bool] = False


@dataclass(frozen=True, kw_only=True, eq=False)
class ChangeConditioning(Patch):
    """Change what a prompt gives the network: ``change(conditioning, branch)``; called once for each of them."""

    change: Callable[[Conditioning, str], Conditioning]
    in_network: ClassVar[bool] = False


@dataclass(frozen=True, kw_only=True, eq=False)
class StepMask(Patch):
    """Change what inpainting repaints: ``mask(mask, step, steps)`` -> (1, 1, h, w), 1 is repainted."""

    mask: Callable[[Tensor, int, int], Tensor]
    replaces: ClassVar[bool] = True
    in_network: ClassVar[bool] = False


@dataclass(frozen=True, kw_only=True, eq=False)
class VaeDecode(Patch):
    """Go around the decoder: ``wrap(raw, run)`` -> (1, 3, 8 h, 8 w); ``run(raw)`` decodes (1, C, h, w)."""

    wrap: Callable[[Tensor, Callable[[Tensor], Tensor]], Tensor]
    in_network: ClassVar[bool] = False


@dataclass(frozen=True, kw_only=True, eq=False)
class VaeEncode(Patch):
    """Go around the encoder: ``wrap(pixels, run)`` -> (1, C, h, w); ``run(pixels)`` encodes (1, 3, 8 h, 8 w)."""

    wrap: Callable[[Tensor, Callable[[Tensor], Tensor]], Tensor]
    in_network: ClassVar[bool] = False


P = TypeVar("P", bound=Patch)


def check_patches(patches: Sequence[Patch], places: Sequence[Place]) -> None:
    """Refuse what this network cannot honour and what cannot stand together.

    Args:
        places: every block and attention of the network.
    Raises:
        PatchRefused: a patch of the network that acts nowhere in it, a skip that cannot be done, or two replacements
            of one point whose scopes meet; the patches are named.
    """
    for patch in patches:
        if patch.in_network and not _acting(patch, places):
            known = ", ".join(dict.fromkeys(place.block for place in places))
            raise PatchRefused(
                f"{patch.name} acts on blocks {', '.join(patch.scope.blocks) or 'of any name'}"
                f"{' and attentions ' + ', '.join(patch.scope.attentions) if patch.scope.attentions else ''}, "
                f"which this checkpoint's network does not have.",
                f"Its blocks are: {known[:300]}.",
                field="extensions",
            )
    replacing = [patch for patch in patches if patch.replaces]
    for i, first in enumerate(replacing):
        for second in replacing[i + 1 :]:
            if type(first) is type(second) and first.scope.meets(second.scope) and _at_one_place(first, second, places):
                raise PatchRefused(
                    f"{first.name} and {second.name} both replace the same thing at the same time.",
                    "Switch one of them off, or give them other blocks, steps or branches.",
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
            weight = region_map(patch.scope.region, new.image.shape[2], new.image.shape[3]).to(new.image)
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


def region_map(region: Tensor, height: int, width: int) -> Tensor:
    """A region (h, w) at another size, (1, 1, height, width)."""
    return F.interpolate(region[None, None].float(), size=(height, width), mode="area")


def region_tokens(region: Tensor, call: Call, place: Place) -> Tensor:
    """A region (h, w) as one weight for each image token at a place, (N,), row by row."""
    return region_map(region, *token_grid(call, place)).flatten()


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
