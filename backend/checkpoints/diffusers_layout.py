"""Tensors between diffusers' names and ours; the tables of names are in ``backend/formats/diffusers_names.py``.

All but two things are the same tensors or views of them. Our MMDiT has q, k and v in one matrix, so theirs are joined:
a copy of about a sixth of its weights (0.7 GiB of SD3 Medium's 3.9 in half precision), memory of its own instead of
mapped pages. The few halves that are swapped are copies too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from backend.checkpoints.convert import StateDict
from backend.errors import ModelCorrupt
from backend.formats.configs import UNetConfig, VAEConfig
from backend.formats.diffusers_names import (
    MMDIT_FUSED,
    Layers,
    count_members,
    is_vae_attention,
    mmdit_fused,
    mmdit_layers,
    mmdit_names,
    renamed,
    swapped_layers,
    unet_layers,
    unet_names,
    vae_layers,
    vae_names,
)


def unet_to_diffusers(state: Mapping[str, Tensor], config: UNetConfig) -> StateDict:
    """Our U-Net's tensors by diffusers' names; the same tensors."""
    return _all_renamed(state, unet_layers(config.res_blocks, [depth > 0 for depth in config.depth_out]))


def unet_from_diffusers(state: Mapping[str, Tensor]) -> StateDict:
    """diffusers' U-Net by our names; the same tensors. Keys that are not known keep their name."""
    return {ours: state[theirs] for theirs, ours in unet_names(state).items()}


def vae_to_diffusers(state: Mapping[str, Tensor], config: VAEConfig) -> StateDict:
    """Our autoencoder's tensors by diffusers' names; the attention's 1x1 convolutions become linear weights."""
    named = _all_renamed(state, vae_layers(len(config.channel_mult), config.res_blocks))
    return {key: t.flatten(1) if is_vae_attention(key) and t.ndim == 4 else t for key, t in named.items()}


def vae_from_diffusers(state: Mapping[str, Tensor]) -> StateDict:
    """diffusers' autoencoder by our names, of any age; views of the same memory."""
    out: StateDict = {}
    for theirs, ours in vae_names(state).items():
        tensor = state[theirs]
        out[ours] = tensor[:, :, None, None] if is_vae_attention(theirs) and tensor.ndim == 2 else tensor
    return out


def mmdit_to_diffusers(state: Mapping[str, Tensor]) -> StateDict:
    """Our MMDiT's tensors by diffusers' names: q, k, v split, shift and scale of the last modulations swapped."""
    depth = count_members(state, "joint_blocks")
    split: StateDict = {}
    for key, tensor in state.items():
        layer, _, kind = key.rpartition(".")
        block, inner = _block_and_rest(layer)
        if inner in MMDIT_FUSED:
            for name, third in zip(MMDIT_FUSED[inner], tensor.chunk(3), strict=True):
                split[f"transformer_blocks.{block}.{name}.{kind}"] = third
        else:
            split[key] = swap_halves(tensor) if layer in swapped_layers(depth) else tensor
    return _all_renamed(split, mmdit_layers(depth))


def mmdit_from_diffusers(state: Mapping[str, Tensor]) -> StateDict:
    """diffusers' MMDiT by our names; q, k, v joined and halves swapped are copies, all else the same tensors."""
    fused = mmdit_fused(state)
    joined = {key for keys in fused.values() for key in keys}
    out = {ours: state[theirs] for theirs, ours in mmdit_names(state).items() if theirs not in joined}
    out |= {ours: torch.cat([state[key] for key in keys]) for ours, keys in fused.items()}
    for layer in swapped_layers(count_members(state, "transformer_blocks")):
        for key in (f"{layer}.weight", f"{layer}.bias"):
            if key in out:
                out[key] = swap_halves(out[key])
    return out


def from_diffusers(state: Mapping[str, Tensor]) -> StateDict:
    """A network of diffusers by our names, whichever it is.

    Raises:
        ModelCorrupt: if tensors that belong in one matrix do not fit each other.
    """
    if count_members(state, "transformer_blocks"):
        try:
            return mmdit_from_diffusers(state)
        except RuntimeError as error:
            raise ModelCorrupt(f"Its q, k and v do not fit each other: {error}.", "Download the file again.") from None
    return unet_from_diffusers(state) if count_members(state, "down_blocks") else vae_from_diffusers(state)


def swap_halves(tensor: Tensor) -> Tensor:
    """Between (shift, scale), as published, and (scale, shift), as diffusers has it."""
    return torch.cat(tensor.chunk(2)[::-1])


def _all_renamed(state: Mapping[str, Tensor], layers: Layers) -> StateDict:
    return {renamed(key, layers): tensor for key, tensor in state.items()}


def _block_and_rest(layer: str) -> tuple[str, str]:
    """Number and inner name of a layer of a joint block; empty for other layers."""
    match = re.fullmatch(r"joint_blocks\.(\d+)\.(.+)", layer)
    return (match[1], match[2]) if match else ("", "")
