"""FreeU: in a U-Net's output blocks the backbone's features count more, the coarse part of the skips less.

Only where backbone and skip meet: in the output blocks of a U-Net's two widest levels. An MMDiT has no such skips.
Source: Si et al. 2023, arXiv:2309.11497, structure-related scaling of half the channels, Fourier mask of the
skips.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from backend.api import (
    BlockInput,
    BlockState,
    Call,
    ModelView,
    Parameters,
    Patch,
    PatchRefused,
    Place,
    Scope,
    check_window,
    number,
)

RADIUS = 1  # of the frequencies that are scaled, as in the paper


class FreeUParameters(Parameters):
    """Two numbers for each of the two levels; 1 leaves it as it is. The authors' for SDXL: 1.3, 1.4, 0.9, 0.2."""

    b1: float = number(1.1, low=0.0, high=3.0, label="Backbone 1", help="Of the widest features.")
    b2: float = number(1.2, low=0.0, high=3.0, label="Backbone 2", help="Of the next level's.")
    s1: float = number(0.9, low=0.0, high=3.0, label="Skip 1")
    s2: float = number(0.7, low=0.0, high=3.0, label="Skip 2")
    start: float = number(0.0, low=0.0, high=1.0, label="From", help="Share of the steps.")
    end: float = number(1.0, low=0.0, high=1.0, label="To", help="Share of the steps.")


def freeu_patches(parameters: FreeUParameters, model: ModelView) -> list[Patch]:
    """One change of the input of each output block in question.

    Raises:
        BadRequest: if the window is empty.
        PatchRefused: the network has no output blocks that skips lead to.
    """
    check_window("FreeU", parameters.start, parameters.end)
    backbones = backbone_channels(model)
    patches: list[Patch] = []
    stages = ((parameters.b1, parameters.s1), (parameters.b2, parameters.s2))
    for width, (backbone, skip) in zip(sorted(set(backbones.values()), reverse=True), stages, strict=False):
        if backbone == 1 and skip == 1:
            continue
        blocks = tuple(block for block, channels in backbones.items() if channels == width)
        scope = Scope(blocks=blocks, start=parameters.start, end=parameters.end)
        patches.append(
            BlockInput(
                change=_scaling(width, backbone, skip),
                scope=scope,
                label=f"FreeU at {width} channels",
                in_tiles=True,
            )
        )
    return patches


def backbone_channels(model: ModelView) -> dict[str, int]:
    """How many of the channels that enter each output block come from the block below; the others are its skip."""
    config: Any = model.info.denoiser
    widths = getattr(config, "channel_mult", None)
    if widths is None:
        raise PatchRefused(
            "FreeU scales a U-Net's skips, and this checkpoint's network has none.",
            "Switch it off, or choose an SDXL checkpoint.",
            field="extensions",
        )
    found: dict[str, int] = {}
    channels = config.model_channels * widths[-1]
    names = iter(block for block in model.blocks if block.startswith("output."))
    for width, count in zip(reversed(widths), reversed(config.res_blocks), strict=True):
        for _ in range(count + 1):
            found[next(names)] = channels
            channels = config.model_channels * width
    return found


def _scaling(width: int, backbone: float, skip: float) -> Callable[[BlockState, Place, Call], BlockState]:
    def change(state: BlockState, place: Place, call: Call) -> BlockState:
        del place, call
        below, skipped = state.image[:, :width], state.image[:, width:]
        return state._replace(image=torch.cat([scaled_backbone(below, backbone), scaled_skip(skipped, skip)], dim=1))

    return change


def scaled_backbone(h: Tensor, factor: float) -> Tensor:
    """Half of the channels times 1 + (factor - 1) * the channels' mean, which is brought to 0 .. 1 in each image."""
    if factor == 1:
        return h
    mean = h.mean(dim=1, keepdim=True)
    low, high = mean.amin(dim=(2, 3), keepdim=True), mean.amax(dim=(2, 3), keepdim=True)
    weight = 1 + (factor - 1) * (mean - low) / (high - low).clamp(min=1e-12)
    half = h.shape[1] // 2
    return torch.cat([h[:, :half] * weight, h[:, half:]], dim=1)


def scaled_skip(h: Tensor, factor: float) -> Tensor:
    """The lowest frequencies, a square of 2 x 2 around 0, times ``factor``."""
    if factor == 1:
        return h
    spectrum = torch.fft.fftn(h.float(), dim=(2, 3))
    rows, columns = (torch.fft.fftfreq(size, 1 / size, device=h.device) for size in h.shape[2:])
    inside = [(at >= -RADIUS) & (at < RADIUS) for at in (rows, columns)]
    mask = torch.where(inside[0][:, None] & inside[1], factor, 1.0)
    return torch.fft.ifftn(spectrum * mask, dim=(2, 3)).real.to(h.dtype)
