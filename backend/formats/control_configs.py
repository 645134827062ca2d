"""What a guidance network is, as frozen numbers; no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from backend.formats.configs import MMDiTConfig, UNetConfig

#: How the weights of a file become those of the network: as they are, added to the checkpoint's, or low-rank beside it.
Weights = Literal["whole", "difference", "low_rank"]


@dataclass(frozen=True)
class ControlNetConfig:
    """A copy of a U-Net's input side that reads a hint (Zhang et al. 2023, arXiv:2302.05543).

    Attributes:
        unet: of the input side; no output blocks.
        hint_channels: of the picture that it reads, at 8 times the latent's side.
        hint_widths: channels of the hint's convolutions, all but the last, which gives the U-Net's width.
        tasks: kinds of hints that a Union network knows; 0: no Union network.
        task_layers: its transformer layers over the tasks.
    """

    unet: UNetConfig
    hint_channels: int
    hint_widths: tuple[int, ...]
    tasks: int = 0
    task_layers: int = 0


@dataclass(frozen=True)
class T2IAdapterConfig:
    """A small network that reads a hint once a picture (Mou et al. 2023, arXiv:2302.08453).

    Attributes:
        channels: what each of its levels gives.
        unshuffle: the side of the squares of pixels that become channels: 8 for SD1, 16 for SDXL.
        hint_channels: of the picture that it reads.
        res_blocks: of each level.
        halved: levels that begin by halving the side.
        is_light: narrow levels between 1x1 convolutions.
        kernel: of the second convolution of a residual block.
    """

    channels: tuple[int, ...]
    unshuffle: int
    hint_channels: int
    res_blocks: int
    halved: tuple[int, ...]
    is_light: bool
    kernel: int


@dataclass(frozen=True)
class MMDiTControlConfig:
    """A guidance network for the MMDiT.

    Attributes:
        mmdit: of its own blocks; ``depth`` is their number, ``pos_embed_side`` 0 where it has no position table.
        hint_channels: of the hint's latent; 17: with a mask.
        blocks: "joint": text and image tokens as in the MMDiT (diffusers'); "chained": image tokens alone, which come
            from the main network (Stability's 8B); "parallel": image tokens alone, and no block sees another's output
            (Stability's 2B).
    """

    mmdit: MMDiTConfig
    hint_channels: int
    blocks: Literal["joint", "chained", "parallel"]


@dataclass(frozen=True)
class ControlInfo:
    """All that the header of a guidance network tells.

    Attributes:
        kind: as people call it: "ControlNet", "ControlNet Union", "T2I-Adapter" ...
        family: of the checkpoints that it guides: "sd1", "sd2", "sdxl", "sd3".
        weights: how they are stored.
        layout: whose names the keys are.
        prefix: what stands before them.
    """

    path: Path
    name: str
    kind: str
    family: str
    config: ControlNetConfig | T2IAdapterConfig | MMDiTControlConfig
    weights: Weights
    layout: Literal["original", "diffusers"]
    prefix: str = ""
