"""Guidance networks for the MMDiT: they read a hint's latent and answer with residuals for the image tokens.

Two architectures: one with joint blocks of its own (diffusers' SD3ControlNetModel, as InstantX and alimama publish it),
and Stability's for SD3.5, whose blocks see image tokens alone. Blocks are those of the MMDiT, and so are their names.
Sources: diffusers 0.42.1 ``controlnet_sd3.py``; Stability-AI/sd3.5 ``dit_embedder.py`` and ``sd3_impls.py``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from backend.diffusion.patching import Tile
from backend.errors import BadRequest
from backend.formats.control_configs import MMDiTControlConfig
from backend.nn.attention import PreparedContext, attend, merge_heads
from backend.nn.layers import Embedder, StartsAtZero, sinusoid
from backend.nn.mmdit import (
    TIMESTEP_WAVES,
    DismantledBlock,
    JointBlock,
    MMDiT,
    PatchEmbed,
    cropped_positions,
    gated,
    modulate,
)


class HintEmbed(nn.Module):
    """The hint's latent as tokens; its channels may be more than the picture's (a mask)."""

    def __init__(self, config: MMDiTControlConfig) -> None:
        super().__init__()
        patch = config.mmdit.patch_size
        self.proj = nn.Conv2d(config.hint_channels, config.mmdit.hidden, patch, stride=patch)

    def initialise_own(self) -> None:
        """It starts at zero, so that a fresh network hears nothing."""
        for parameter in self.parameters():
            parameter.zero_()

    def forward(self, hint: Tensor) -> Tensor:
        """(B, hint_channels, H, W) -> (B, N, hidden)."""
        return self.proj(hint).flatten(2).transpose(1, 2).contiguous()


class JointControl(StartsAtZero, nn.Module):
    """A copy of the MMDiT's first blocks, text tokens included; published ones are given pooled vectors of zeros."""

    pos_embed: Tensor
    zero_at_start = ("controlnet_blocks",)

    def __init__(self, config: MMDiTControlConfig) -> None:
        super().__init__()
        self.control, self.config = config, config.mmdit
        mmdit = config.mmdit
        self.x_embedder = PatchEmbed(mmdit)
        self.register_buffer("pos_embed", torch.zeros(1, mmdit.pos_embed_side**2, mmdit.hidden))
        self.t_embedder = Embedder(TIMESTEP_WAVES, mmdit.hidden)
        self.y_embedder = Embedder(mmdit.pooled_dim, mmdit.hidden)
        self.context_embedder = nn.Linear(mmdit.context_dim, mmdit.hidden)
        self.pos_embed_input = HintEmbed(config)
        self.joint_blocks = nn.ModuleList(
            JointBlock(mmdit, last=False, dual=index < mmdit.dual_blocks) for index in range(mmdit.depth)
        )
        self.controlnet_blocks = _outputs(config)

    def prepare_context(self, context: Tensor) -> PreparedContext:
        """The embedded text tokens, as the MMDiT's."""
        return PreparedContext(((self.context_embedder(context),),), tokens=context.shape[1])

    def prepare_hint(self, hint: Tensor) -> Tensor:
        """The hint's latent (B, hint_channels, H, W) as tokens (B, N, hidden)."""
        return self.pos_embed_input(hint)

    def forward(
        self,
        x: Tensor,
        timestep: Tensor,
        context: Tensor | PreparedContext,
        pooled: Tensor,
        hint: Tensor,
        tile: Tile | None = None,
    ) -> list[Tensor]:
        """Run the network once.

        Args:
            x, timestep, context, pooled: as for the MMDiT; ``context`` prepared by this network.
            hint: (B or 1, N, hidden), from ``prepare_hint``.
            tile: where ``x`` lies in the whole latent; None: it is that.
        Returns:
            Residuals (B, N, hidden), one for each block.
        """
        if isinstance(context, Tensor):
            context = self.prepare_context(context)
        ((text,),) = context.parts
        text = text.expand(x.shape[0], -1, -1)
        patch = self.config.patch_size
        positions = cropped_positions(self.pos_embed, x.shape[2] // patch, x.shape[3] // patch, patch, tile)
        h = self.x_embedder(x) + positions.to(x.dtype) + hint
        emb = self.t_embedder(sinusoid(timestep, TIMESTEP_WAVES).to(x.dtype)) + self.y_embedder(pooled)
        residuals: list[Tensor] = []
        for block, output in zip(self.joint_blocks, self.controlnet_blocks, strict=True):
            text, h = block(text, h, emb)
            residuals.append(output(h))
        return residuals


class SingleBlock(DismantledBlock):
    """The image half of a joint block, run by itself."""

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """Image tokens (B, N, hidden) and emb (B, hidden) -> (B, N, hidden)."""
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = self.modulation(emb)
        h = attend(*self.attn.project(modulate(self.norm1(x), shift, scale)))
        x = gated(x, gate, self.attn.proj(merge_heads(h)))
        return gated(x, mlp_gate, self.mlp(modulate(self.norm2(x), mlp_shift, mlp_scale)))


class SingleControl(StartsAtZero, nn.Module):
    """Stability's: image tokens alone.

    The 8B kind ("chained") takes the image tokens that the main network embedded, and the raw pooled vector. The 2B
    kind ("parallel") embeds the latent itself, without positions, and takes the pooled vector from the main network's
    embedder; each of its blocks reads the first tokens.
    """

    zero_at_start = ("controlnet_blocks",)

    def __init__(self, config: MMDiTControlConfig) -> None:
        super().__init__()
        self.control, self.config = config, config.mmdit
        mmdit = config.mmdit
        self.x_embedder = PatchEmbed(mmdit) if config.blocks == "parallel" else None
        self.t_embedder = Embedder(TIMESTEP_WAVES, mmdit.hidden)
        self.y_embedder = Embedder(mmdit.pooled_dim, mmdit.hidden)
        self.pos_embed_input = HintEmbed(config)
        self.transformer_blocks = nn.ModuleList(SingleBlock(mmdit) for _ in range(mmdit.depth))
        self.controlnet_blocks = _outputs(config)

    def prepare_hint(self, hint: Tensor) -> Tensor:
        """The hint's latent (B, hint_channels, H, W) as tokens (B, N, hidden)."""
        return self.pos_embed_input(hint)

    def forward(
        self, main: MMDiT, x: Tensor, timestep: Tensor, pooled: Tensor, hint: Tensor, tile: Tile | None = None
    ) -> list[Tensor]:
        """Run the network once.

        Args:
            main: the network that is guided; its embedders are used.
            x, timestep, pooled: as for the main network.
            hint: (B or 1, N, hidden), from ``prepare_hint``.
            tile: where ``x`` lies in the whole latent; None: it is that.
        Returns:
            Residuals (B, N, hidden), one for each block.
        Raises:
            BadRequest: if the main network has another width.
        """
        if main.config.hidden != self.config.hidden:
            raise BadRequest(
                f"This ControlNet is for a model of width {self.config.hidden}; the checkpoint's is "
                f"{main.config.hidden}.",
                "Use it with the checkpoint that it was trained for (SD3.5 Large: 2432).",
            )
        if self.x_embedder is None:
            h = main.embed_image(x, tile)
        else:
            h, pooled = self.x_embedder(x), main.y_embedder(pooled)
        h = h + hint
        emb = self.t_embedder(sinusoid(timestep, TIMESTEP_WAVES).to(x.dtype)) + self.y_embedder(pooled)
        residuals: list[Tensor] = []
        for block, output in zip(self.transformer_blocks, self.controlnet_blocks, strict=True):
            out = block(h, emb)
            residuals.append(output(out))
            if self.x_embedder is None:
                h = out
        return residuals


def _outputs(config: MMDiTControlConfig) -> nn.ModuleList:
    """One linear layer behind each block."""
    hidden = config.mmdit.hidden
    return nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(config.mmdit.depth))
