"""A tiny guidance network of every kind, as files of models/controlnet."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from backend.checkpoints.save import write_tensors
from backend.control.load import build_control
from tests import builders
from tests.control import tiny


def diffusers_network(name: str) -> Any:
    """diffusers' network of a file that is written in its naming."""
    network = _DIFFUSERS[name]()
    builders.randomise(network, seed=len(name))
    if name.endswith("first"):  # the first block alone answers
        for parameter in network.controlnet_blocks[1].parameters():
            parameter.data.zero_()
    return network


_DIFFUSERS: Mapping[str, Callable[[], Any]] = {
    "edges-xl-diffusers": tiny.diffusers_controlnet,
    "promax": lambda: tiny.diffusers_controlnet(union=True, num_control_type=8),
    "t2i": lambda: tiny.diffusers_t2i(tiny.T2I_XL),
    "t2i-sd1": lambda: tiny.diffusers_t2i(replace(tiny.T2I_SD1, channels=(32, 64))),
    "joint": lambda: tiny.diffusers_mmdit_control(tiny.JOINT),
    "joint-first": lambda: tiny.diffusers_mmdit_control(tiny.JOINT),
    "inpaint": lambda: tiny.diffusers_mmdit_control(replace(tiny.JOINT, hint_channels=17)),
    "depth-8b-first": lambda: tiny.diffusers_mmdit_control(tiny.CHAINED, force_zeros_for_pooled_projection=False),
}


def write_networks(folder: Path) -> None:
    """All of them."""
    folder.mkdir(parents=True, exist_ok=True)
    own = {
        "edges-xl": _randomised(tiny.CONTROLNET).state_dict(),
        "control-lora": _control_lora(),
        "union": _randomised(tiny.UNION).state_dict(),
        "canny-8b": tiny.in_stability_naming(_randomised(tiny.CHAINED)),
        "canny-2b": tiny.in_stability_naming(_randomised(tiny.PARALLEL)),
    }
    sd1 = replace(tiny.CONTROLNET, unet=replace(builders.TINY_UNET_SD1, depth_out=()))
    heads = {"easel.unet": json.dumps({"heads": 4, "head_dim": None})}
    write_tensors(folder / "edges-sd1.safetensors", _randomised(sd1).state_dict(), heads)
    for name, tensors in (own | {name: diffusers_network(name).state_dict() for name in _DIFFUSERS}).items():
        write_tensors(folder / f"{name}.safetensors", {k: t.contiguous() for k, t in tensors.items()}, {})


def _randomised(config: Any) -> nn.Module:
    return builders.randomise(build_control(config))


def _control_lora(rank: int = 4) -> dict[str, Tensor]:
    """Low-rank changes for every matrix that a U-Net has too, the rest whole."""
    draw = torch.Generator().manual_seed(5)
    unet = builders.tiny_unet().state_dict()
    file: dict[str, Tensor] = {"lora_controlnet": torch.zeros(0)}
    for key, tensor in _randomised(tiny.CONTROLNET).state_dict().items():
        if key in unet and tensor.ndim > 1:
            layer = key.removesuffix(".weight")
            up = torch.randn(tensor.shape[0], rank, *(1 for _ in tensor.shape[2:]), generator=draw)
            down = torch.randn(rank, *tensor.shape[1:], generator=draw)
            file |= {f"{layer}.up": 0.05 * up, f"{layer}.down": 0.05 * down}
        else:
            file[key] = tensor
    return file
