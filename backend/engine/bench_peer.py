"""Our U-Net beside diffusers' with the same weights: ``easel bench --against diffusers``; no generation comes near it.

diffusers belongs to the test extra: it is imported here, when it is asked for, and nowhere else outside the tests.
"""

from __future__ import annotations

import importlib.metadata
import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from backend.checkpoints.diffusers_layout import unet_to_diffusers
from backend.engine.stopwatch import timed
from backend.errors import BadRequest, Internal
from backend.formats.configs import UNetConfig
from backend.formats.full_size import SDXL_UNET
from backend.nn.layers import sinusoid
from backend.nn.unet import UNet

#: SDXL's U-Net with 64 instead of 320 channels: 158 M parameters, the "mini" of SPEED.md.
MINI = replace(SDXL_UNET, model_channels=64)
TOLERANCE = 1e-4  # of the largest output, before anything is timed
TOKENS = 77
CPU = torch.device("cpu")
SIZE_WAVES = 256  # sinusoid width of each size number
SIZE_NUMBERS = 6


@dataclass(frozen=True)
class PeerFigures:
    """One guided step (a batch of two prompts) of both, in float32, in turns.

    Attributes:
        error: largest difference of the outputs, of the largest output.
        ours_seconds, peer_seconds: medians.
        ratio: of these medians; below 1 we are faster.
        noise: how far the medians of our first and our second runs of each round lie apart, as a share of them: what
            the same figure shows where there is no difference. Believe nothing smaller.
    """

    peer: str
    parameters: int
    side: int
    threads: int
    rounds: int
    error: float
    ours_seconds: float
    peer_seconds: float
    ratio: float
    noise: float


def compare(config: UNetConfig = MINI, *, side: int = 512, rounds: int = 7, device: torch.device = CPU) -> PeerFigures:
    """Time both networks on the same random weights and inputs.

    Each round runs both twice, in turns (ours, theirs, ours, theirs), the next round the other way about. Text keys and
    values are made before, once a prompt, as our pipeline does; diffusers makes them at every step.

    Args:
        side: of the square picture, in pixels.
    Raises:
        BadRequest: if diffusers is not installed.
        Internal: if the outputs differ; then there is nothing to compare.
    """
    version = require_diffusers()
    ours, theirs, parameters = _both(config, side // 8, device)
    with torch.inference_mode():
        error = _difference(ours(), theirs())
        if not error < TOLERANCE:
            raise Internal(f"Our U-Net and diffusers' differ by {error:.1e} of the largest output.")
        times = [_round(ours, theirs, device, ours_first=number % 2 == 0) for number in range(rounds)]
    ours_seconds = statistics.median(t for mine, _ in times for t in mine)
    peer_seconds = statistics.median(t for _, others in times for t in others)
    first, second = (statistics.median(mine[turn] for mine, _ in times) for turn in (0, 1))
    return PeerFigures(
        peer=f"diffusers {version}",
        parameters=parameters,
        side=side,
        threads=torch.get_num_threads(),
        rounds=rounds,
        error=error,
        ours_seconds=ours_seconds,
        peer_seconds=peer_seconds,
        ratio=ours_seconds / peer_seconds,
        noise=abs(first / second - 1),
    )


def _both(
    config: UNetConfig, side: int, device: torch.device
) -> tuple[Callable[[], Tensor], Callable[[], Tensor], int]:
    """Two closures that run one guided step each, and the number of parameters that they share."""
    generator = torch.Generator().manual_seed(0)
    with torch.device("meta"):
        network = UNet(config)
    network.to_empty(device="cpu").eval().requires_grad_(False)
    _fill(network, generator)
    network.to(device)
    with torch.device("meta"):
        peer = peer_unet(config)
    peer.load_state_dict(unet_to_diffusers(network.state_dict(), config), assign=True)  # the very same memory

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device)

    x = draw(2, config.in_channels, side, side)
    context = draw(2, TOKENS, config.context_dim)
    timestep = torch.full((2,), 431.0, device=device)
    pooled, extra = None, None
    if config.label_dim is not None:
        text = draw(2, config.label_dim - SIZE_NUMBERS * SIZE_WAVES)
        sizes = torch.tensor([[8.0 * side, 8 * side, 0, 0, 8 * side, 8 * side]], device=device).expand(2, -1)
        waves = sinusoid(sizes.flatten(), SIZE_WAVES).reshape(2, -1)
        pooled, extra = torch.cat([text, waves], dim=1), {"text_embeds": text, "time_ids": sizes}
    with torch.inference_mode():
        prepared = network.prepare_context(context)

    def ours() -> Tensor:
        return network(x, timestep, prepared, pooled)

    def theirs() -> Tensor:
        return peer(x, timestep, context, added_cond_kwargs=extra).sample

    return ours, theirs, sum(parameter.numel() for parameter in network.parameters())


def _fill(network: nn.Module, generator: torch.Generator) -> None:
    """Random weights that keep the size of what passes through; no path is zero."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                parameter.copy_(noise / math.sqrt(parameter[0].numel()))
            else:
                parameter.copy_(1 + 0.1 * noise if name.endswith("weight") else 0.05 * noise)


def _difference(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max())


def _round(
    ours: Callable[[], Tensor], theirs: Callable[[], Tensor], device: torch.device, *, ours_first: bool
) -> tuple[list[float], list[float]]:
    """Seconds of two runs of each, in turns."""
    times: tuple[list[float], list[float]] = ([], [])
    turns = ((0, ours), (1, theirs)) if ours_first else ((1, theirs), (0, ours))
    for whose, run in turns * 2:
        times[whose].append(timed(device, run))
    return times


def require_diffusers() -> str:
    """diffusers' version.

    Raises:
        BadRequest: with the command that installs it, if it is not there.
    """
    try:
        return importlib.metadata.version("diffusers")
    except importlib.metadata.PackageNotFoundError:
        raise BadRequest(
            "diffusers, the peer of this comparison, is not installed.",
            "Install the test extra: pip install -e .[test]",
        ) from None


def peer_unet(config: UNetConfig) -> Any:
    """``UNet2DConditionModel`` with random weights, for any U-Net that every level treats alike, in eval mode."""
    import diffusers

    levels = len(config.channel_mult)
    starts = [sum(config.res_blocks[:level]) for level in range(levels)]
    depths = [config.depth_in[start] for start in starts]
    widths = [config.model_channels * mult for mult in config.channel_mult]
    extra: dict[str, Any] = {}
    if config.label_dim is not None:
        extra = {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": SIZE_WAVES,
            "projection_class_embeddings_input_dim": config.label_dim,
        }
    network: Any = diffusers.UNet2DConditionModel  # pyright: ignore[reportPrivateImportUsage] - so documented
    return network(
        in_channels=config.in_channels,
        out_channels=config.out_channels,
        block_out_channels=widths,
        layers_per_block=config.res_blocks[0],
        down_block_types=["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in depths],
        up_block_types=["CrossAttnUpBlock2D" if depth else "UpBlock2D" for depth in reversed(depths)],
        transformer_layers_per_block=[depth or 1 for depth in depths],
        # diffusers calls the number of heads "attention_head_dim" (its issue 2011)
        attention_head_dim=[config.heads or max(1, width // (config.head_dim or width)) for width in widths],
        cross_attention_dim=config.context_dim,
        use_linear_projection=config.linear_projection,
        norm_num_groups=config.norm_groups,
        **extra,
    ).eval()
