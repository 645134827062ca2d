"""ControlNet for U-Nets: a copy of the input side that reads a hint and answers with residuals.

Attribute names are the keys of the original files (lllyasviel/ControlNet), below ``control_model.`` where they have it.
Source: Zhang et al. 2023, arXiv:2302.05543, figure 3.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from torch import Tensor, nn

from backend.diffusion.residuals import UNetResiduals
from backend.formats.control_configs import ControlNetConfig
from backend.nn.attention import PreparedContext
from backend.nn.layers import StartsAtZero
from backend.nn.unet import UNetInputSide

_HALVES = (2, 4, 6)  # which of the hint's convolutions halve the side, so that pixels become the latent's


class HintBlock(nn.ModuleList):
    """Convolutions from a picture to the U-Net's first feature map; SiLU stands between them, as odd numbers."""

    def __init__(self, config: ControlNetConfig) -> None:
        widths = [config.hint_channels, *config.hint_widths, config.unet.model_channels]
        layers: list[nn.Module] = []
        for number, (before, after) in enumerate(pairwise(widths)):
            layers += [nn.Conv2d(before, after, 3, padding=1, stride=2 if number in _HALVES else 1), nn.SiLU()]
        super().__init__(layers[:-1])

    def initialise_own(self) -> None:
        """The last convolution starts at zero, so that a fresh network hears nothing."""
        for parameter in self[-1].parameters():
            parameter.zero_()

    def forward(self, hint: Tensor) -> Tensor:
        """(B, hint_channels, 8 H, 8 W) -> (B, model_channels, H, W)."""
        for layer in self:
            hint = layer(hint)
        return hint


class ControlNetBody(StartsAtZero, UNetInputSide):
    """What all ControlNets share: the input side, the hint's convolutions, and one convolution behind every block."""

    zero_at_start = ("zero_convs", "middle_block_out")

    def __init__(self, config: ControlNetConfig) -> None:
        super().__init__(config.unet)
        self.control = config
        self.input_hint_block = HintBlock(config)
        self.zero_convs = nn.ModuleList(nn.Sequential(nn.Conv2d(width, width, 1)) for width in self.widths)
        self.middle_block_out = nn.Sequential(nn.Conv2d(self.widths[-1], self.widths[-1], 1))

    def prepare_hint(self, hint: Tensor) -> Tensor:
        """The hint as a feature map of the latent's size; it depends on the hint and on these weights alone.

        Args:
            hint: (B, hint_channels, 8 H, 8 W), 0 to 1.
        Returns:
            (B, model_channels, H, W).
        """
        return self.input_hint_block(hint)

    def residuals(
        self, x: Tensor, context: Tensor | PreparedContext, emb: Tensor, fused: Callable[[Tensor], Tensor]
    ) -> UNetResiduals:
        """Run the blocks.

        Args:
            fused: what is added to the first feature map, given that map, (B, model_channels, H, W).
        """
        if isinstance(context, Tensor):
            context = self.prepare_context(context)
        skips: dict[int, Tensor] = {}
        h = x
        for index, (block, zero_conv) in enumerate(zip(self.input_blocks, self.zero_convs, strict=True)):
            h = block(h, emb, context)
            if index == 0:
                h = h + fused(h)
            skips[index] = zero_conv(h)
        h = self.middle_block(h, emb, context)
        return UNetResiduals(skips, self.middle_block_out(h))


class ControlNet(ControlNetBody):
    """Answer a hint with what is to be added to every skip of the U-Net and to its middle."""

    def forward(
        self, x: Tensor, timestep: Tensor, context: Tensor | PreparedContext, pooled: Tensor | None, hint: Tensor
    ) -> UNetResiduals:
        """Run the network once.

        Args:
            x, timestep, context, pooled: as for the U-Net that is guided; ``context`` prepared by this network.
            hint: (B or 1, model_channels, H, W), from ``prepare_hint``.
        """
        return self.residuals(x, context, self.embed(x, timestep, pooled), lambda _h: hint)
