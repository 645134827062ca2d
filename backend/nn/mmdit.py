"""The multimodal diffusion transformer of SD3 and SD3.5 (MMDiT and MMDiT-X).

Attribute names are the keys of the published single-file checkpoints below `model.diffusion_model.`.
Source: Esser et al. 2024, arXiv:2403.03206, figure 2; MMDiT-X's second attention: Stability-AI/sd3.5, mmditx.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backend.diffusion.patched import Patched
from backend.diffusion.patching import QKV, BlockState, Place, Tile
from backend.diffusion.residuals import spread
from backend.errors import BadRequest
from backend.formats.configs import MMDiTConfig
from backend.nn.attention import PreparedContext, attend, merge_heads
from backend.nn.layers import Embedder, Mlp, StartsAtZero, sinusoid

TIMESTEP_WAVES = 256  # width of the timestep's sinusoid, the same in every published size


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x * (1 + scale) + shift for tokens (B, T, C) and one shift and scale a picture, (B, C) each."""
    return torch.addcmul(shift[:, None], x, 1 + scale[:, None])


def gated(x: Tensor, gate: Tensor, h: Tensor) -> Tensor:
    """x + gate * h for tokens (B, T, C) and one gate a picture, (B, C)."""
    return torch.addcmul(x, gate[:, None], h)


def joint_attention(
    text: QKV, image: QKV, place: Place | None = None, patches: Patched | None = None
) -> tuple[Tensor, Tensor]:
    """Attend over text and image tokens as one sequence, text first; return each part, (B, heads, T, head_dim)."""
    q, k, v = (torch.cat(pair, dim=2) for pair in zip(text, image, strict=True))
    # (B, heads, T_text + T_image, head_dim)
    out = attend(q, k, v) if patches is None or place is None else patches.attention(place, QKV(q, k, v), attend)
    tokens = text.q.shape[2]
    return out[:, :, :tokens], out[:, :, tokens:]


class HeadNorm(nn.RMSNorm):
    """RMS norm over the width of one head, in the precision of its input."""

    def __init__(self, head_dim: int) -> None:
        super().__init__(head_dim, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """(..., head_dim) -> (..., head_dim)."""
        # Under autocast the weight is wider than the input; torch's fused norm wants them equal.
        return F.rms_norm(x, (x.shape[-1],), self.weight.to(x.dtype), self.eps)


class SelfAttention(nn.Module):
    """The projections of one attention; the attention itself may be over tokens of two of these.

    With ``pre_only`` there is no ``proj``: nothing comes out.
    """

    proj: nn.Linear

    def __init__(self, config: MMDiTConfig, *, pre_only: bool = False) -> None:
        super().__init__()
        self.heads = config.heads
        head_dim = config.hidden // config.heads
        self.qkv = nn.Linear(config.hidden, 3 * config.hidden)
        self.ln_q = HeadNorm(head_dim) if config.qk_norm else nn.Identity()
        self.ln_k = HeadNorm(head_dim) if config.qk_norm else nn.Identity()
        if not pre_only:
            self.proj = nn.Linear(config.hidden, config.hidden)

    def project(self, x: Tensor) -> QKV:
        """(B, T, hidden) -> queries, keys and values."""
        B, T, _ = x.shape
        q, k, v = self.qkv(x).view(B, T, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        return QKV(self.ln_q(q), self.ln_k(k), v)


class DismantledBlock(StartsAtZero, nn.Module):
    """The half of a joint block that belongs to one kind of token; its parts are called by ``JointBlock``.

    Args:
        pre_only: the text half of the last block: its tokens are attended to, but not carried on, so that it has no
            ``norm2`` and no ``mlp``.
        dual: has a second attention over its own tokens alone (MMDiT-X).
    """

    zero_at_start = ("adaLN_modulation.1",)
    norm2: nn.LayerNorm
    mlp: Mlp

    def __init__(self, config: MMDiTConfig, *, pre_only: bool = False, dual: bool = False) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.hidden, elementwise_affine=False, eps=1e-6)
        self.attn = SelfAttention(config, pre_only=pre_only)
        self.attn2 = SelfAttention(config) if dual else None
        self.pre_only = pre_only
        if not pre_only:
            self.norm2 = nn.LayerNorm(config.hidden, elementwise_affine=False, eps=1e-6)
            self.mlp = Mlp(config.hidden, config.mlp_hidden)
        self.parts = 2 if pre_only else 9 if dual else 6
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(config.hidden, self.parts * config.hidden))

    def modulation(self, emb: Tensor) -> tuple[Tensor, ...]:
        """(B, hidden) -> shift, scale and gate, (B, hidden) each, of the attention, the mlp and the second attention.

        With ``pre_only``: shift and scale of the attention alone.
        """
        return self.adaLN_modulation(emb).chunk(self.parts, dim=1)


class JointBlock(nn.Module):
    """One block: text and image tokens have weights of their own and meet in the attention."""

    def __init__(self, config: MMDiTConfig, *, last: bool, dual: bool) -> None:
        super().__init__()
        self.context_block = DismantledBlock(config, pre_only=last)
        self.x_block = DismantledBlock(config, dual=dual)
        self.place: Place | None = None  # of the block and of its two attentions; set by MMDiT
        self.joint_place: Place | None = None
        self.image_place: Place | None = None

    def forward(
        self, context: Tensor, x: Tensor, emb: Tensor, patches: Patched | None = None
    ) -> tuple[Tensor | None, Tensor]:
        """Text tokens (B, T, hidden), image tokens (B, N, hidden) and emb (B, hidden) -> both kinds of tokens.

        The last block returns None in place of the text.
        """
        text, image = self.context_block, self.x_block
        text_shift, text_scale, *text_rest = text.modulation(emb)
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate, *second = image.modulation(emb)

        x_norm = image.norm1(x)
        text_qkv = text.attn.project(modulate(text.norm1(context), text_shift, text_scale))
        image_qkv = image.attn.project(modulate(x_norm, shift, scale))
        text_out, image_out = joint_attention(text_qkv, image_qkv, self.joint_place, patches)

        x = gated(x, gate, image.attn.proj(merge_heads(image_out)))
        if image.attn2 is not None:
            shift2, scale2, gate2 = second
            qkv = image.attn2.project(modulate(x_norm, shift2, scale2))
            if patches is None or self.image_place is None:
                own = attend(*qkv)
            else:
                own = patches.attention(self.image_place, qkv, attend)
            x = gated(x, gate2, image.attn2.proj(merge_heads(own)))
        x = gated(x, mlp_gate, image.mlp(modulate(image.norm2(x), mlp_shift, mlp_scale)))

        if text.pre_only:
            return None, x
        text_gate, text_mlp_shift, text_mlp_scale, text_mlp_gate = text_rest
        context = gated(context, text_gate, text.attn.proj(merge_heads(text_out)))
        h = text.mlp(modulate(text.norm2(context), text_mlp_shift, text_mlp_scale))
        return gated(context, text_mlp_gate, h), x


class PatchEmbed(nn.Module):
    """Latent -> one token for each square of patch_size x patch_size."""

    def __init__(self, config: MMDiTConfig) -> None:
        super().__init__()
        self.proj = nn.Conv2d(config.in_channels, config.hidden, config.patch_size, stride=config.patch_size)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, H * W / patch_size², hidden), row by row."""
        return self.proj(x).flatten(2).transpose(1, 2).contiguous()


class FinalLayer(StartsAtZero, nn.Module):
    """Tokens -> the numbers of their patch."""

    zero_at_start = ("adaLN_modulation.1", "linear")

    def __init__(self, config: MMDiTConfig) -> None:
        super().__init__()
        self.norm_final = nn.LayerNorm(config.hidden, elementwise_affine=False, eps=1e-6)
        self.linear = nn.Linear(config.hidden, config.patch_size**2 * config.out_channels)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(config.hidden, 2 * config.hidden))

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """(B, N, hidden) and (B, hidden) -> (B, N, patch_size² * out_channels)."""
        shift, scale = self.adaLN_modulation(emb).chunk(2, dim=1)
        return self.linear(modulate(self.norm_final(x), shift, scale))


def cropped_positions(table: Tensor, height: int, width: int, patch: int, tile: Tile | None = None) -> Tensor:
    """What the patches of a picture read of a square position table (1, side², hidden), (1, height * width, hidden).

    A picture lies in the table's middle; so does a tile with positions of its own, any other where it is in the whole.

    Args:
        height, width: in patches of ``patch`` latent cells, of a tile its own.
    Raises:
        BadRequest: if the table is smaller, or a tile does not begin with a patch.
    """
    side = math.isqrt(table.shape[1])
    whole, top, left = (height, width), 0, 0
    if tile is not None and not tile.own_positions:
        if tile.top % patch or tile.left % patch:
            raise BadRequest(f"A tile begins at {tile.left}, {tile.top}; both must be multiples of {patch}.")
        whole, top, left = (tile.whole[0] // patch, tile.whole[1] // patch), tile.top // patch, tile.left // patch
    if max(whole) > side:
        raise BadRequest(
            f"This model's position table is {side} x {side} patches; the picture needs {whole[1]} x {whole[0]}.",
            f"Choose a picture of at most {side * patch} latent pixels a side"
            f"{', or tiles with positions of their own' if tile is not None else ''}.",
        )
    top, left = top + (side - whole[0]) // 2, left + (side - whole[1]) // 2
    square = table.view(1, side, side, -1)
    return square[:, top : top + height, left : left + width].reshape(1, height * width, -1)


class MMDiT(nn.Module):
    """Predict the velocity from a noisy latent, the timestep, the text tokens and the pooled text vector."""

    pos_embed: Tensor
    #: May be of another dtype than the arithmetic: the forward pass casts the few places of it that it needs.
    casts_itself: ClassVar[tuple[str, ...]] = ("pos_embed",)

    def __init__(self, config: MMDiTConfig) -> None:
        super().__init__()
        self.config = config
        self.x_embedder = PatchEmbed(config)
        self.register_buffer("pos_embed", torch.zeros(1, config.pos_embed_side**2, config.hidden))
        self.t_embedder = Embedder(TIMESTEP_WAVES, config.hidden)
        self.y_embedder = Embedder(config.pooled_dim, config.hidden)
        self.context_embedder = nn.Linear(config.context_dim, config.hidden)
        self.joint_blocks = nn.ModuleList(
            JointBlock(config, last=index == config.depth - 1, dual=index < config.dual_blocks)
            for index in range(config.depth)
        )
        self.final_layer = FinalLayer(config)
        self.places: list[Place] = []
        for index, block in enumerate(self._blocks):
            place = Place(f"joint.{index}", "joint", index, index / max(config.depth - 1, 1), config.patch_size)
            block.place, block.joint_place = place, replace(place, attention="joint")
            block.image_place = replace(place, attention="image") if index < config.dual_blocks else None
            self.places += [p for p in (place, block.joint_place, block.image_place) if p is not None]

    @property
    def _blocks(self) -> list[JointBlock]:
        return cast("list[JointBlock]", list(self.joint_blocks))

    def initialise_own(self) -> None:
        """Xavier weights, narrow embedders and the sinusoidal position table (Peebles and Xie 2023, DiT's code)."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for embedder in (self.t_embedder, self.y_embedder):
            for layer in embedder.mlp:
                if isinstance(layer, nn.Linear):
                    nn.init.normal_(layer.weight, std=0.02)
        side = self.config.pos_embed_side
        waves = sinusoid(torch.arange(side, device=self.pos_embed.device), self.config.hidden // 2)  # (side, hidden/2)
        rows = waves[:, None].expand(side, side, -1)
        columns = waves[None].expand(side, side, -1)
        self.pos_embed.copy_(torch.cat([columns, rows], dim=2).reshape(1, side * side, -1))

    def positions(self, height: int, width: int, tile: Tile | None = None) -> Tensor:
        """What so many patches read of the position table, see ``cropped_positions``."""
        return cropped_positions(self.pos_embed, height, width, self.config.patch_size, tile)

    def prepare_context(self, context: Tensor) -> PreparedContext:
        """The embedded text tokens; they depend on the prompt and on these weights alone.

        Args:
            context: (B, T, context_dim); one row serves a whole batch.
        """
        return PreparedContext(((self.context_embedder(context),),), tokens=context.shape[1])

    def embed_image(self, x: Tensor, tile: Tile | None = None) -> Tensor:
        """A latent (B, in_channels, H, W) as tokens with their positions, (B, H * W / patch_size², hidden).

        Raises:
            BadRequest: if the picture is larger than the position table or no multiple of the patch size.
        """
        H, W = x.shape[-2:]
        patch = self.config.patch_size
        if H % patch or W % patch:
            raise BadRequest(f"The latent is {W} x {H}; both sides must be multiples of {patch}.")
        return self.x_embedder(x) + self.positions(H // patch, W // patch, tile).to(x.dtype)

    def forward(
        self,
        x: Tensor,
        timestep: Tensor,
        context: Tensor | PreparedContext,
        pooled: Tensor,
        *,
        residuals: Sequence[Tensor] = (),
        skip_blocks: frozenset[int] = frozenset(),
        patches: Patched | None = None,
    ) -> Tensor:
        """Run the network once.

        Args:
            x: (B, in_channels, H, W); H and W are multiples of the patch size.
            timestep: (B,), sigma * 1000.
            context: (B, T, context_dim) or (1, T, context_dim), or what ``prepare_context`` made of it.
            pooled: (B, pooled_dim).
            residuals: image tokens that a guidance network adds after the blocks, (B or 1, N, hidden) each; fewer than
                blocks serve several in a row.
            skip_blocks: indices of joint blocks that both kinds of tokens pass by (skip-layer guidance).
            patches: what a job changes inside; None runs the plain path.
        Returns:
            (B, out_channels, H, W).
        Raises:
            BadRequest: as ``embed_image``.
        """
        B, _, H, W = x.shape
        patch = self.config.patch_size
        if isinstance(context, Tensor):
            context = self.prepare_context(context)
        ((text,),) = context.parts
        text = text.expand(B, -1, -1)

        h = self.embed_image(x, patches.call.tile if patches is not None else None)
        emb = self.t_embedder(sinusoid(timestep, TIMESTEP_WAVES).to(x.dtype)) + self.y_embedder(pooled)
        for index, block in enumerate(self._blocks):
            if index in skip_blocks:
                continue  # with its residual, as in the reference
            if patches is not None:
                text, h = _patched(block, text, h, emb, patches)
            else:
                text, h = block(text, h, emb)
            if residuals:
                h = h + spread(residuals, index, self.config.depth)
        h = self.final_layer(h, emb)
        # (B, height * width, patch * patch * C) -> (B, C, height * patch, width * patch)
        h = h.view(B, H // patch, W // patch, patch, patch, -1).permute(0, 5, 1, 3, 2, 4)
        return h.reshape(B, -1, H, W)


def _patched(
    block: JointBlock, text: Tensor | None, h: Tensor, emb: Tensor, patches: Patched
) -> tuple[Tensor | None, Tensor]:
    """A joint block with everything that acts on it."""
    place = block.place
    if place is None:
        raise ValueError("a block without a place cannot be patched")
    if patches.skips(place):
        return text, h

    def run(state: BlockState) -> BlockState:
        if state.text is None:
            raise ValueError(f"a patch of {place.block} took the text away")
        after, image = block(state.text, state.image, emb, patches)
        return BlockState(image, after)

    state = patches.block(place, BlockState(h, text), run)
    return state.text, state.image
