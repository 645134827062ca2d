"""Patches: typed changes at declared points of the denoise loop and of the networks, the same on U-Net and MMDiT.

A job asks for patches; they act while it samples and leave nothing behind. Patches before and after a point compose in
the order of their extensions; a replacement stands alone: two of one point whose scopes meet are an error that names
both. A job without patches runs the networks' plain paths.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import ClassVar, Literal, NamedTuple, Protocol

from torch import Tensor

from backend.diffusion.conditioning import Conditioning
from backend.diffusion.residuals import Residual
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


class NetworkInputs(NamedTuple):
    """What the denoiser network is called with, all branches of the call one after another.

    ``x`` (B, C, h, w) is the scaled noisy latent without further input channels, ``timestep`` (B,), ``context``
    (B or 1, T, D) the text tokens before any projection, ``pooled`` (B or 1, P) or None.
    """

    x: Tensor
    timestep: Tensor
    context: Tensor
    pooled: Tensor | None


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


class Tile(NamedTuple):
    """The part of the latent that a network call sees, in cells of ``whole``; its own size is the call's.

    ``own_positions``: an MMDiT's tokens lie where those of a picture of the tile's size would, not where they are in
    the whole, which may be larger than the network's table of positions.
    """

    top: int
    left: int
    whole: tuple[int, int]  # height and width
    own_positions: bool = False


@dataclass(frozen=True)
class Call:
    """One call of the network.

    Attributes:
        step: being made, 0 to ``steps`` - 1; ``sigma`` its noise level.
        branches: the name of each branch in this call ("cond", "uncond", or one that a patch added), in order; the
            batch holds ``images`` rows for each.
        height, width: of the latent that it sees, in cells.
        text_tokens: of the context, T.
        conditioning: what each branch reads, in order; the same object as long as its prompt stays the same, so that
            what a patch keeps from step to step can tell AND-joined prompts and ``[a|b]`` apart.
        adapters: numbers of those adapters with a step window or region that are in the weights. What a patch remembers
            of a call holds for calls of the same branches with the same adapters.
        negative: of each branch, whether it reads the negative prompt.
        aside: the latent is not the step's but one that a patch asks about (``Outputs.evaluate``).
        tile: where what it sees lies in the whole latent; None: it sees all of that.
    """

    step: int
    steps: int
    sigma: float
    branches: tuple[str, ...]
    images: int
    height: int
    width: int
    text_tokens: int
    conditioning: tuple[Conditioning, ...] = ()
    adapters: frozenset[int] = frozenset()
    negative: tuple[bool, ...] = ()
    aside: bool = False
    tile: Tile | None = None

    def seeing(self, x: Tensor, at: tuple[int, int] | None, *, own_positions: bool = False) -> Call:
        """The call for another ``x`` than its own (B, C, h, w), a part of that from ``at`` (top, left) on.

        Without ``at`` ``x`` shows the same as before, at any size.

        Raises:
            ValueError: it is no part, or one of another size of which nobody knows where it lies.
        """
        height, width = x.shape[2], x.shape[3]
        if at is None:
            if (height, width) != (self.height, self.width) and self.tile is not None:
                raise ValueError(f"a tile of {self.width} x {self.height} cells cannot become {width} x {height}")
            return replace(self, height=height, width=width)
        top, left = at
        if min(at) < 0 or top + height > self.height or left + width > self.width:
            raise ValueError(
                f"a tile of {width} x {height} cells at {left}, {top} is no part of {self.width} x {self.height}"
            )
        if (height, width) == (self.height, self.width):
            return self
        outer = self.tile or Tile(0, 0, (self.height, self.width))
        tile = Tile(outer.top + top, outer.left + left, outer.whole, outer.own_positions or own_positions)
        return replace(self, height=height, width=width, tile=tile)


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
    """Base of all patches. ``owner`` is filled in by the engine; ``label`` says which of its patches it is.

    ``in_tiles``: it acts as well where another patch hands the network tiles of the latent: it asks ``call.tile`` for
    the place, or does not care where it is. Patches of the network that do not say so are refused beside one that does.
    """

    scope: Scope = field(default_factory=Scope)
    label: str = ""
    in_tiles: bool = False
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

    in_tiles: bool = True


@dataclass(frozen=True, kw_only=True, eq=False)
class Residuals(Patch):
    """Add what a guidance network makes of the call's inputs: ``compute(inputs, call)`` -> residuals, or None.

    A U-Net takes ``UNetResiduals``, an MMDiT a sequence of image tokens (B or 1, N, hidden), each of which serves as
    many blocks in a row. Several add up. The scope's ``region`` weights what is added; its ``blocks`` cannot be used.
    """

    compute: Callable[[NetworkInputs, Call], Residual | None]


class RunModel(Protocol):
    """The network call that a ``ModelCall`` goes around."""

    def __call__(self, x: Tensor, at: tuple[int, int] | None = None, *, own_positions: bool = False) -> Tensor:
        """The network's output for ``x``, (B, C, h, w).

        Args:
            at: top and left, in cells, of the part of the call's latent that ``x`` is: regions, hints and positions of
                that part go with it. Both are multiples of the patch size in an MMDiT. Only of patches that say
                ``makes_tiles``.
            own_positions: see ``Tile``.
        """
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class ModelCall(Patch):
    """Go around a whole network call: ``wrap(x, call, run)`` -> (B, C, h, w); ``run(x)`` is the call.

    ``x`` is the scaled input, all branches of the call one after another. One that ``makes_tiles`` may call
    ``run(x[:, :, top:bottom, left:right], (top, left))`` for parts that cover it.
    """

    wrap: Callable[[Tensor, Call, RunModel], Tensor]
    makes_tiles: bool = False
    in_network: ClassVar[bool] = False


@dataclass(frozen=True, kw_only=True, eq=False)
class AddBranch(Patch):
    """Evaluate the prompt once more in every step of the scope, under ``branch``; other patches act on it by name."""

    branch: str
    is_negative: bool = False
    in_network: ClassVar[bool] = False


def _nobody_answers(_x: Tensor, branch: str) -> Tensor:
    raise ValueError(f"no network to ask for {branch!r}")


@dataclass(frozen=True, eq=False)
class Outputs:
    """What the branches of a step gave, as clean latents (B, C, h, w); AND-joined prompts are summed by weight.

    Attributes:
        x, sigma: where the step stands; (x - denoised) / sigma is the slope dx/dsigma of any family.
        scale: the step's CFG scale.
        alpha: the share of the clean latent in ``x``: 1 - sigma for flow models, else 1.
        evaluate: ``evaluate(x, branch)`` -> the clean latent that a branch of this step gives for another ``x`` at the
            same noise level, patches included: one more network call. ValueError: the step has no such branch.
    """

    denoised: Mapping[str, Tensor]
    x: Tensor
    sigma: float
    scale: float
    step: int
    steps: int
    alpha: float = 1.0
    evaluate: Callable[[Tensor, str], Tensor] = _nobody_answers


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
    """Change what a prompt gives the network: ``change(conditioning, branch)``; called once for each of them.

    ``prompts`` restricts it to branches that read the positive, or the negative, prompt, whoever added them.
    """

    change: Callable[[Conditioning, str], Conditioning]
    prompts: Literal["any", "positive", "negative"] = "any"
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
