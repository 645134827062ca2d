"""Tensors of guidance networks from the layouts of the files to ours: names by table, q, k, v joined to one.

What a file keeps relative to its checkpoint (low-rank or as a difference) becomes whole weights here.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from backend.errors import ModelCorrupt
from backend.formats.control import MARKERS
from backend.formats.control_configs import ControlInfo, ControlNetConfig, MMDiTControlConfig, T2IAdapterConfig
from backend.formats.control_names import (
    SINGLE_FUSED,
    controlnet_names,
    joint_control_names,
    single_control_names,
    t2i_names,
)
from backend.formats.diffusers_names import MMDIT_FUSED

StateDict = dict[str, Tensor]

#: No weights of the network: what the file says of itself.
_FACTS = frozenset({*MARKERS, "control_type"})


def canonical(info: ControlInfo, tensors: Mapping[str, Tensor]) -> StateDict:
    """The tensors of a file (prefix taken off) by our names; joined ones are copies, all else the same tensors."""
    state = {key: tensor for key, tensor in tensors.items() if key not in _FACTS}
    match info.config:
        case T2IAdapterConfig():
            return _named(state, t2i_names(state))
        case ControlNetConfig():
            return _named(state, controlnet_names(state)) if info.layout == "diffusers" else state
        case MMDiTControlConfig(blocks="joint"):
            named = _named(state, joint_control_names(state))
            return _joined(named, "joint_blocks", MMDIT_FUSED, info.config.mmdit.depth)
        case MMDiTControlConfig():
            named = _named(state, single_control_names(state))
            return _joined(named, "transformer_blocks", SINGLE_FUSED, info.config.mmdit.depth)


def whole(info: ControlInfo, state: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> StateDict:
    """Whole weights of a control-LoRA or a difference ControlNet.

    Args:
        state: by our names; of a control-LoRA ``layer.up`` (out, r, ...) and ``layer.down`` (r, in, ...) for a weight
            that is the checkpoint's plus their product, without an alpha.
        base: the tensors of the checkpoint's U-Net. Input side and middle of a control-LoRA are its own where the file
            has nothing.
    Raises:
        ModelCorrupt: if a tensor is of another shape than the checkpoint's.
    """
    if info.weights == "difference":
        return {key: _sum(key, base[key], tensor) if key in base else tensor for key, tensor in state.items()}
    inside = ("input_blocks.", "middle_block.", "time_embed.", "label_emb.")
    out = {key: tensor for key, tensor in base.items() if key.startswith(inside)}
    for key, tensor in state.items():
        layer, _, ending = key.rpartition(".")
        if ending == "up" and f"{layer}.down" in state:
            product = tensor.float().flatten(1) @ state[f"{layer}.down"].float().flatten(1)
            weight = f"{layer}.weight"
            if weight not in base:
                raise ModelCorrupt(f"The control-LoRA changes {layer}, which this checkpoint has not.")
            out[weight] = _sum(weight, base[weight], product)
        elif ending != "down":
            out[key] = tensor
    return out


def _sum(key: str, base: Tensor, change: Tensor) -> Tensor:
    if base.numel() != change.numel() or base.shape[0] != change.shape[0]:
        raise ModelCorrupt(
            f"{key} of the ControlNet has shape {list(change.shape)}, in this checkpoint {list(base.shape)}.",
            "Use it with the kind of checkpoint that it was trained for.",
        )
    return (base.float() + change.to(base.device, torch.float32).reshape(base.shape)).to(base.dtype)


def _named(state: Mapping[str, Tensor], names: Mapping[str, str]) -> StateDict:
    return {names[key]: tensor for key, tensor in state.items()}


def _joined(state: StateDict, blocks: str, fused: Mapping[str, tuple[str, str, str]], depth: int) -> StateDict:
    """q, k and v, which kept their names below ``transformer_blocks``, as rows of one tensor."""
    for block in range(depth):
        for ours, parts in fused.items():
            for kind in ("weight", "bias"):
                keys = [f"transformer_blocks.{block}.{part}.{kind}" for part in parts]
                if all(key in state for key in keys):
                    state[f"{blocks}.{block}.{ours}.{kind}"] = torch.cat([state.pop(key) for key in keys])
    return state
