"""Names of guidance networks' layers in the layouts of the files -> ours, as tables; no torch.

Ours are the original ones where an original layout exists (ControlNet; Stability's for the MMDiT, with the embedders
named as in the MMDiT itself), else diffusers'. Sources: lllyasviel/ControlNet ``cldm.py``; TencentARC/T2I-Adapter
``adapter.py``; Stability-AI/sd3.5 ``dit_embedder.py``; diffusers 0.42.1 ``models/controlnets``, ``models/adapter.py``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from backend.formats.diffusers_names import (
    Layers,
    count_members,
    inverted,
    mmdit_layers,
    renamed,
    unet_names,
)

MAX_HINT_LAYERS = 32

#: Theirs -> ours; what is not here keeps its name.
MMDIT_EMBEDDERS: Layers = {
    "time_text_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
    "time_text_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
    "time_text_embed.text_embedder.linear_1": "y_embedder.mlp.0",
    "time_text_embed.text_embedder.linear_2": "y_embedder.mlp.2",
    "pos_embed.proj": "x_embedder.proj",
}
#: diffusers' block over image tokens alone -> ours.
_SINGLE_BLOCK: Layers = {
    "norm1.linear": "adaLN_modulation.1",
    "attn.to_out.0": "attn.proj",
    "ff.net.0.proj": "mlp.fc1",
    "ff.net.2": "mlp.fc2",
}
#: Its three layers that are one in ours.
SINGLE_FUSED: Mapping[str, tuple[str, str, str]] = {"attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v")}

_BLOCK = re.compile(r"transformer_blocks\.(\d+)\.(.+)")
_T2I_LEVELS = 4
_T2I_FLAT = re.compile(r"body\.(\d+)\.(in_conv|block1|block2|skep)\.(.+)")


def controlnet_names(keys: Iterable[str]) -> dict[str, str]:
    """Each key of a ControlNet in diffusers naming -> ours; a Union network's own keys keep their names."""
    keys = list(keys)
    hidden = min(count_members(keys, "controlnet_cond_embedding.blocks"), MAX_HINT_LAYERS)
    layers: Layers = {
        "controlnet_cond_embedding.conv_in": "input_hint_block.0",
        "controlnet_cond_embedding.conv_out": f"input_hint_block.{2 * hidden + 2}",
        "controlnet_mid_block": "middle_block_out.0",
    }
    layers |= {f"controlnet_cond_embedding.blocks.{i}": f"input_hint_block.{2 * i + 2}" for i in range(hidden)}
    zero_convs = min(count_members(keys, "controlnet_down_blocks"), 64)
    layers |= {f"controlnet_down_blocks.{i}": f"zero_convs.{i}.0" for i in range(zero_convs)}
    own = [key for key in keys if key.startswith("controlnet_")]
    return unet_names(key for key in keys if key not in set(own)) | {key: renamed(key, layers) for key in own}


def joint_control_names(keys: Iterable[str]) -> dict[str, str]:
    """Each key of a guidance network with joint blocks -> ours; those of the split q, k, v keep their names."""
    keys = list(keys)
    depth = min(count_members(keys, "transformer_blocks"), 128)
    layers = inverted(mmdit_layers(depth))
    return {key: renamed(key, layers) for key in keys}


def single_control_names(keys: Iterable[str]) -> dict[str, str]:
    """Each key of a guidance network over image tokens alone, in either layout -> ours; as above for q, k, v."""
    names: dict[str, str] = {}
    for key in keys:
        if match := _BLOCK.fullmatch(key):
            names[key] = f"transformer_blocks.{match[1]}.{renamed(match[2], _SINGLE_BLOCK)}"
        else:
            names[key] = renamed(key, MMDIT_EMBEDDERS)
    return names


def t2i_names(keys: Iterable[str]) -> dict[str, str]:
    """Each key of a T2I-Adapter, in any layout -> ours (diffusers', without its ``adapter.``).

    Original full adapters number their residual blocks through; light ones call them ``body``.
    """
    keys = list(keys)
    plain = {key: key.removeprefix("adapter.") for key in keys}
    if any(".resnets." in key for key in keys):
        return plain
    if any(re.match(r"body\.\d+\.body\.", name) for name in plain.values()):
        return {key: re.sub(r"^(body\.\d+)\.body\.", r"\1.resnets.", name) for key, name in plain.items()}
    a_level = max(count_members(plain.values(), "body") // _T2I_LEVELS, 1)
    return {key: _t2i_nested(name, a_level) for key, name in plain.items()}


def _t2i_nested(name: str, a_level: int) -> str:
    match = _T2I_FLAT.fullmatch(name)
    if match is None:
        return name
    level, place = divmod(int(match[1]), a_level)
    if match[2] == "in_conv" and place == 0:
        return f"body.{level}.in_conv.{match[3]}"
    return f"body.{level}.resnets.{place}.{match[2]}.{match[3]}"
