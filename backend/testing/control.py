"""Tiny guidance networks: one edge ControlNet for each family's tiny checkpoint, as files have them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from backend.checkpoints.save import write_tensors
from backend.control.load import build_control
from backend.formats.configs import Family
from backend.formats.control_configs import ControlNetConfig, MMDiTControlConfig
from backend.testing import networks

HINT_WIDTHS = (16, 16, 32, 32, 96, 96, 256)
CONTROLNET = ControlNetConfig(replace(networks.TINY_UNET, depth_out=()), 3, HINT_WIDTHS)
CHAINED = MMDiTControlConfig(replace(networks.TINY_MMDIT, depth=2, context_dim=0, pos_embed_side=0), 16, "chained")

_THEIR_EMBEDDERS: Mapping[str, str] = {
    "t_embedder.mlp.0": "time_text_embed.timestep_embedder.linear_1",
    "t_embedder.mlp.2": "time_text_embed.timestep_embedder.linear_2",
    "y_embedder.mlp.0": "time_text_embed.text_embedder.linear_1",
    "y_embedder.mlp.2": "time_text_embed.text_embedder.linear_2",
    "x_embedder.proj": "pos_embed.proj",
}


def in_stability_naming(expected: nn.Module) -> dict[str, Tensor]:
    """Its tensors as Stability's files for SD3.5 name them, of a network for edges."""
    state = {}
    for key, tensor in expected.state_dict().items():
        layer, _, kind = key.rpartition(".")
        state[f"{_THEIR_EMBEDDERS.get(layer, layer)}.{kind}"] = tensor
    return state | {"control_type": torch.tensor(1, dtype=torch.int32)}


def write_tiny_control(path: Path, family: Family) -> None:
    """An edge ControlNet with random weights for a tiny SDXL- or SD3.5-style checkpoint."""
    if family == "sd3":
        tensors = in_stability_naming(networks.randomise(build_control(CHAINED)))
    else:
        tensors = networks.randomise(build_control(CONTROLNET)).state_dict()
    write_tensors(path, {key: tensor.contiguous() for key, tensor in tensors.items()}, {})
