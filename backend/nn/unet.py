"""The U-Net denoiser of SDXL (base, refiner, inpainting, distillations), SD2 and SD1.

Attribute names are the keys of the published single-file checkpoints below `model.diffusion_model.`.
Source: Ho et al. 2020, arXiv:2006.11239; Rombach et al. 2022, arXiv:2112.10752; Podell et al. 2023, arXiv:2307.01952.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backend.diffusion.patched import Patched
from backend.diffusion.patching import BlockState, Place, Stage
from backend.diffusion.residuals import UNetResiduals
from backend.formats.configs import UNetConfig
from backend.nn.attention import Attention, PreparedContext
from backend.nn.layers import FeedForward, SiLU, StartsAtZero, accumulate, sinusoid


class ResBlock(StartsAtZero, nn.Module):
    """Two 3x3 convolutions beside a shortcut; the timestep embedding is added between them."""

    zero_at_start = ("out_layers.3",)

    def __init__(self, config: UNetConfig, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.in_layers = nn.Sequential(
            nn.GroupNorm(config.norm_groups, in_channels),
            SiLU(),
            nn.Conv2d(in_channels, out_channels, 3, padding=1),
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(4 * config.model_channels, out_channels))
        self.out_layers = nn.Sequential(
            nn.GroupNorm(config.norm_groups, out_channels),
            SiLU(),
            nn.Identity(),  # the published code's dropout, which holds the number 2
            nn.Conv2d(out_channels, out_channels, 3, padding=1),
        )
        changes = in_channels != out_channels
        self.skip_connection = nn.Conv2d(in_channels, out_channels, 1) if changes else nn.Identity()

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """(B, in_channels, H, W) and (B, emb) -> (B, out_channels, H, W)."""
        h = self.in_layers(x)
        h = accumulate(h, self.emb_layers(emb)[:, :, None, None])
        h = self.out_layers(h)
        return accumulate(h, self.skip_connection(x))


class TransformerBlock(nn.Module):
    """Attention to the image, attention to the text, feed-forward; each beside a shortcut and after a norm."""

    def __init__(self, dim: int, context_dim: int, heads: int) -> None:
        super().__init__()
        self.attn1 = Attention(dim, dim, heads)
        self.ff = FeedForward(dim)
        self.attn2 = Attention(dim, context_dim, heads)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.norm3 = nn.LayerNorm(dim)
        self.index = 0  # place among the network's transformer blocks, in order of execution; set by UNet
        self.places: tuple[Place | None, Place | None] = (None, None)  # of both attentions; set by UNet

    def forward(self, x: Tensor, context: PreparedContext, patches: Patched | None = None) -> Tensor:
        """(B, H * W, dim) -> (B, H * W, dim)."""
        own, text = self.places
        h = self.norm1(x)
        x = accumulate(self.attn1(h, self.attn1.keys_values(h), own, patches), x)
        h = self.norm2(x)
        keys, values = context.parts[self.index]
        x = accumulate(self.attn2(h, (keys, values), text, patches), x)
        h = self.norm3(x)
        return accumulate(self.ff(h), x)


class SpatialTransformer(StartsAtZero, nn.Module):
    """Transformer blocks over the pixels of a feature map, beside a shortcut."""

    zero_at_start = ("proj_out",)

    def __init__(self, config: UNetConfig, channels: int, depth: int) -> None:
        super().__init__()
        heads = config.heads or channels // (config.head_dim or channels)
        self.linear = config.linear_projection
        self.norm = nn.GroupNorm(config.norm_groups, channels, eps=1e-6)
        self.proj_in = nn.Linear(channels, channels) if self.linear else nn.Conv2d(channels, channels, 1)
        self.transformer_blocks = nn.ModuleList(
            TransformerBlock(channels, config.context_dim, heads) for _ in range(depth)
        )
        self.proj_out = nn.Linear(channels, channels) if self.linear else nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, context: PreparedContext, patches: Patched | None = None) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        B, C, H, W = x.shape
        h = self.norm(x)
        if not self.linear:
            h = self.proj_in(h)
        # Contiguous, since torch multiplies a strided view by another route where gradients are wanted: other bits.
        h = h.flatten(2).transpose(1, 2).contiguous()  # (B, C, H, W) -> (B, H * W, C)
        if self.linear:
            h = self.proj_in(h)
        for block in self.transformer_blocks:
            h = block(h, context, patches)
        if self.linear:
            h = self.proj_out(h)
        h = h.reshape(B, H, W, C).permute(0, 3, 1, 2)
        if not self.linear:
            h = self.proj_out(h)
        return x + h


class Downsample(nn.Module):
    """Halve both sides, rounding up."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, ceil(H / 2), ceil(W / 2))."""
        return self.op(x)


class Upsample(nn.Module):
    """Repeat pixels up to the size of the level above, then smooth with a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, C, H, W) -> (B, C, *size); where the level above is odd, that is not quite (2 H, 2 W)."""
        return self.conv(F.interpolate(x, size=size, mode="nearest"))


class Block(nn.ModuleList):
    """The numbered layers of one input, middle or output block, run in turn."""

    place: Place | None = None  # set by UNet

    def forward(
        self,
        h: Tensor,
        emb: Tensor,
        context: PreparedContext,
        size: tuple[int, int] | None = None,
        patches: Patched | None = None,
    ) -> Tensor:
        """(B, C, H, W) -> (B, C', H', W'); ``size`` is what an upsampling layer fills."""
        if patches is None or self.place is None:
            return self._run(h, emb, context, size)

        def run(state: BlockState) -> BlockState:
            return BlockState(self._run(state.image, emb, context, size, patches))

        return patches.block(self.place, BlockState(h), run).image

    def _run(
        self,
        h: Tensor,
        emb: Tensor,
        context: PreparedContext,
        size: tuple[int, int] | None,
        patches: Patched | None = None,
    ) -> Tensor:
        is_skipped = patches is not None and self.place is not None and patches.skips(self.place)
        for layer in self:
            if isinstance(layer, ResBlock):
                h = layer(h, emb)
            elif isinstance(layer, SpatialTransformer):
                h = h if is_skipped else layer(h, context, patches)
            elif isinstance(layer, Upsample):
                h = layer(h, size)
            else:
                h = layer(h)
        return h


class UNetInputSide(nn.Module):
    """Embedders, input blocks and middle block: what a ControlNet has of a U-Net.

    ``widths`` are the channels that each input block gives; the middle gives the last one's.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        width = config.model_channels
        self.time_embed = _embedder(width, 4 * width)
        if config.label_dim is not None:
            # Twice nested, as published: label_emb.0 is the whole embedder.
            self.label_emb = nn.Sequential(_embedder(config.label_dim, 4 * width))
        else:
            self.label_emb = None

        levels = len(config.channel_mult)
        depths = iter(config.depth_in)
        self.input_blocks = nn.ModuleList([Block([nn.Conv2d(config.in_channels, width, 3, padding=1)])])
        channels = width
        self.widths = [channels]
        for level, (mult, blocks) in enumerate(zip(config.channel_mult, config.res_blocks, strict=True)):
            for _ in range(blocks):
                self.input_blocks.append(_residual(config, channels, mult * width, next(depths)))
                channels = mult * width
                self.widths.append(channels)
            if level < levels - 1:
                self.input_blocks.append(Block([Downsample(channels)]))
                self.widths.append(channels)

        self.middle_block = Block()
        if config.depth_mid is not None:
            self.middle_block.extend(_residual(config, channels, channels, config.depth_mid))
            if config.depth_mid > 0:
                self.middle_block.append(ResBlock(config, channels, channels))
        self.number_transformer_blocks()

    def number_transformer_blocks(self) -> None:
        """Tell every transformer block its place among all of them."""
        for index, block in enumerate(self.transformer_blocks()):
            block.index = index

    def transformer_blocks(self) -> list[TransformerBlock]:
        """All transformer blocks in order of execution."""
        return [module for module in self.modules() if isinstance(module, TransformerBlock)]

    def prepare_context(self, context: Tensor) -> PreparedContext:
        """Keys and values of every attention to the text; they depend on the prompt and on these weights alone.

        Args:
            context: (B, T, context_dim); one row serves a whole batch.
        """
        parts = tuple(block.attn2.keys_values(context) for block in self.transformer_blocks())
        return PreparedContext(parts, tokens=context.shape[1])

    def embed(self, x: Tensor, timestep: Tensor, pooled: Tensor | None) -> Tensor:
        """The timestep (B,) and the pooled vector (B, label_dim) as what every residual block takes, (B, width * 4)."""
        emb = self.time_embed(sinusoid(timestep, self.config.model_channels).to(x.dtype))
        return emb if self.label_emb is None else emb + self.label_emb(pooled)


class UNet(StartsAtZero, UNetInputSide):
    """Predict eps or v from a noisy latent, the timestep, the text tokens and (SDXL) a pooled vector."""

    zero_at_start = ("out.2",)

    def __init__(self, config: UNetConfig) -> None:
        super().__init__(config)
        self.places: list[Place] = []
        levels, width = len(config.channel_mult), config.model_channels
        skips, channels = [*self.widths], self.widths[-1]
        depths = iter(config.depth_out)
        self.output_blocks = nn.ModuleList()
        for level in reversed(range(levels)):
            target = config.channel_mult[level] * width
            for place in range(config.res_blocks[level] + 1):
                block = _residual(config, channels + skips.pop(), target, next(depths))
                if level > 0 and place == config.res_blocks[level]:
                    block.append(Upsample(target))
                self.output_blocks.append(block)
                channels = target

        self.out = nn.Sequential(
            nn.GroupNorm(config.norm_groups, channels),
            SiLU(),
            nn.Conv2d(channels, config.out_channels, 3, padding=1),
        )
        self.number_transformer_blocks()
        self._place_blocks()

    def _place_blocks(self) -> None:
        """Tell blocks and attentions where they are, for patches."""
        middle = [self.middle_block] if len(self.middle_block) else []
        lists: tuple[tuple[Stage, str, Sequence[nn.Module]], ...] = (
            ("down", "input", list(self.input_blocks)),
            ("middle", "middle", middle),
            ("up", "output", list(self.output_blocks)),
        )
        whole = sum(len(blocks) for *_, blocks in lists)
        number, scale = 0, 1
        for stage, name, blocks in lists:
            for index, block in enumerate(blocks):
                scale *= 2 if any(isinstance(layer, Downsample) for layer in block.children()) else 1
                place = Place(f"{name}.{index}", stage, number, number / (whole - 1), scale)
                self.places += _placed(block, place)
                scale //= 2 if any(isinstance(layer, Upsample) for layer in block.children()) else 1
                number += 1

    def forward(
        self,
        x: Tensor,
        timestep: Tensor,
        context: Tensor | PreparedContext,
        pooled: Tensor | None = None,
        *,
        residuals: UNetResiduals | None = None,
        patches: Patched | None = None,
    ) -> Tensor:
        """Run the network once.

        Args:
            x: (B, in_channels, H, W), any H and W, scaled for the network's input.
            timestep: (B,), 0 to 999, fractions allowed.
            context: (B, T, context_dim) or (1, T, context_dim), or what ``prepare_context`` made of it.
            pooled: (B, label_dim), pooled text features and size sinusoids; None where the config has no label_dim.
            residuals: what guidance networks add inside.
            patches: what a job changes inside; None runs the plain path.
        Returns:
            (B, out_channels, H, W).
        """
        if isinstance(context, Tensor):
            context = self.prepare_context(context)
        emb = self.embed(x, timestep, pooled)

        h = x
        skips: list[Tensor] = []
        for index, block in enumerate(self.input_blocks):
            h = block(h, emb, context, None, patches)
            if residuals is not None and index in residuals.inputs:
                h = h + residuals.inputs[index]
            skips.append(h if residuals is None or index not in residuals.skips else h + residuals.skips[index])
        h = self.middle_block(h, emb, context, None, patches)
        if residuals is not None and residuals.middle is not None:
            h = h + residuals.middle
        for block in self.output_blocks:
            h = torch.cat([h, skips.pop()], dim=1)
            size = (skips[-1].shape[2], skips[-1].shape[3]) if skips else None
            h = block(h, emb, context, size, patches)
        return self.out(h)


def _placed(block: nn.Module, place: Place) -> list[Place]:
    """Give a block and its attentions their places; all of them."""
    places = [place]
    block.place = place  # type: ignore[assignment]  # a plain attribute of Block
    transformers = [module for module in block.modules() if isinstance(module, TransformerBlock)]
    for layer, transformer in enumerate(transformers):
        own = replace(place, layer=layer, attention="self")
        text = replace(place, layer=layer, attention="cross")
        transformer.places = (own, text)
        places += [own, text]
    return places


def _embedder(dim: int, hidden: int) -> nn.Sequential:
    """Two linear layers with SiLU between them."""
    return nn.Sequential(nn.Linear(dim, hidden), nn.SiLU(), nn.Linear(hidden, hidden))


def _residual(config: UNetConfig, in_channels: int, out_channels: int, depth: int) -> Block:
    """A residual block and, where ``depth`` is not 0, a transformer behind it."""
    block = Block([ResBlock(config, in_channels, out_channels)])
    if depth > 0:
        block.append(SpatialTransformer(config, out_channels, depth))
    return block
