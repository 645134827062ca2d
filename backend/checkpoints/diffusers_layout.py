"""Between diffusers' names (folders with ``unet/``, ``transformer/``, ``vae/``) and ours, as tables of layers.

Each table lists our layer and theirs; a key is a layer and what follows it. Both directions use the same table, so
what one writes the other reads. Their text encoders need none: they have the Hugging Face names already.

Source: diffusers 0.42.1, the modules' attribute names and ``single_file_utils.py`` (``swap_scale_shift``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from backend.checkpoints.convert import StateDict
from backend.formats.configs import UNetConfig, VAEConfig

Layers = dict[str, str]  # our layer -> theirs

_UNET_OUTER: Layers = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "label_emb.0.0": "add_embedding.linear_1",
    "label_emb.0.2": "add_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "middle_block.1": "mid_block.attentions.0",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
_UNET_RESNET: Layers = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_VAE_RESNET: Layers = {name: name for name in ("norm1", "conv1", "norm2", "conv2")} | {"nin_shortcut": "conv_shortcut"}
_VAE_ATTENTION: Layers = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
#: How diffusers called the attention's layers before 0.18.
_VAE_FORMER_NAMES: Layers = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}

_MMDIT_OUTER: Layers = {
    "pos_embed": "pos_embed.pos_embed",
    "x_embedder.proj": "pos_embed.proj",
    "t_embedder.mlp.0": "time_text_embed.timestep_embedder.linear_1",
    "t_embedder.mlp.2": "time_text_embed.timestep_embedder.linear_2",
    "y_embedder.mlp.0": "time_text_embed.text_embedder.linear_1",
    "y_embedder.mlp.2": "time_text_embed.text_embedder.linear_2",
    "context_embedder": "context_embedder",
    "final_layer.adaLN_modulation.1": "norm_out.linear",
    "final_layer.linear": "proj_out",
}
_MMDIT_BLOCK: Layers = {
    "x_block.adaLN_modulation.1": "norm1.linear",
    "x_block.attn.ln_q": "attn.norm_q",
    "x_block.attn.ln_k": "attn.norm_k",
    "x_block.attn.proj": "attn.to_out.0",
    "x_block.attn2.ln_q": "attn2.norm_q",
    "x_block.attn2.ln_k": "attn2.norm_k",
    "x_block.attn2.proj": "attn2.to_out.0",
    "x_block.mlp.fc1": "ff.net.0.proj",
    "x_block.mlp.fc2": "ff.net.2",
    "context_block.adaLN_modulation.1": "norm1_context.linear",
    "context_block.attn.ln_q": "attn.norm_added_q",
    "context_block.attn.ln_k": "attn.norm_added_k",
    "context_block.attn.proj": "attn.to_add_out",
    "context_block.mlp.fc1": "ff_context.net.0.proj",
    "context_block.mlp.fc2": "ff_context.net.2",
}
#: Our fused q, k, v by rows -> their three layers.
_MMDIT_FUSED: Mapping[str, tuple[str, str, str]] = {
    "x_block.attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "x_block.attn2.qkv": ("attn2.to_q", "attn2.to_k", "attn2.to_v"),
    "context_block.attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
}


def unet_to_diffusers(state: Mapping[str, Tensor], config: UNetConfig) -> StateDict:
    """Our U-Net's tensors by diffusers' names; the same tensors."""
    return _renamed(state, unet_layers(config.res_blocks, [depth > 0 for depth in config.depth_out]))


def unet_from_diffusers(state: Mapping[str, Tensor]) -> StateDict:
    """diffusers' U-Net by our names; the same tensors. Keys that are not known keep their name."""
    levels = _count(state, "down_blocks")
    res_blocks = [_count(state, f"down_blocks.{level}.resnets") for level in range(levels)]
    attends = [
        any(key.startswith(f"up_blocks.{up}.attentions.{place}.") for key in state)
        for up in range(levels)
        for place in range(_count(state, f"up_blocks.{up}.resnets"))
    ]
    return _renamed(state, _inverted(unet_layers(res_blocks, attends)))


def vae_to_diffusers(state: Mapping[str, Tensor], config: VAEConfig) -> StateDict:
    """Our autoencoder's tensors by diffusers' names; the attention's 1x1 convolutions become linear weights."""
    named = _renamed(state, vae_layers(len(config.channel_mult), config.res_blocks))
    return {key: t.flatten(1) if _is_vae_attention(key) and t.ndim == 4 else t for key, t in named.items()}


def vae_from_diffusers(state: Mapping[str, Tensor]) -> StateDict:
    """diffusers' autoencoder by our names, of any age; views of the same memory."""
    levels, blocks = _count(state, "encoder.down_blocks"), _count(state, "encoder.down_blocks.0.resnets")
    current: StateDict = {}
    for key, tensor in state.items():
        if _is_vae_attention(key):
            layer, _, kind = key.rpartition(".")
            stem, _, name = layer.rpartition(".")
            key = f"{stem}.{_VAE_FORMER_NAMES.get(name, name)}.{kind}"
            tensor = tensor[:, :, None, None] if tensor.ndim == 2 else tensor
        current[key] = tensor
    return _renamed(current, _inverted(vae_layers(levels, blocks)))


def mmdit_to_diffusers(state: Mapping[str, Tensor]) -> StateDict:
    """Our MMDiT's tensors by diffusers' names: q, k, v split, shift and scale of the last modulations swapped."""
    depth = _count(state, "joint_blocks")
    split: StateDict = {}
    for key, tensor in state.items():
        layer, _, kind = key.rpartition(".")
        block, inner = _block_and_rest(layer)
        if inner in _MMDIT_FUSED:
            for name, third in zip(_MMDIT_FUSED[inner], tensor.chunk(3), strict=True):
                split[f"transformer_blocks.{block}.{name}.{kind}"] = third
        else:
            split[key] = swap_halves(tensor) if layer in _swapped_layers(depth) else tensor
    return _renamed(split, mmdit_layers(depth))


def mmdit_from_diffusers(state: Mapping[str, Tensor]) -> StateDict:
    """diffusers' MMDiT by our names; q, k, v joined and halves swapped are copies, all else the same tensors."""
    depth = _count(state, "transformer_blocks")
    out = _renamed(state, _inverted(mmdit_layers(depth)))
    for block in range(depth):
        for fused, names in _MMDIT_FUSED.items():
            for kind in ("weight", "bias"):
                keys = [f"transformer_blocks.{block}.{name}.{kind}" for name in names]
                if all(key in out for key in keys):
                    out[f"joint_blocks.{block}.{fused}.{kind}"] = torch.cat([out.pop(key) for key in keys])
    for layer in _swapped_layers(depth):
        for key in (f"{layer}.weight", f"{layer}.bias"):
            if key in out:
                out[key] = swap_halves(out[key])
    return out


def unet_layers(res_blocks: Sequence[int], attends: Sequence[bool]) -> Layers:
    """The U-Net's layers by position.

    Args:
        res_blocks: residual blocks of each level, from the finest.
        attends: for each output block, whether it has transformer blocks (the upsampler stands behind them).
    """
    table = dict(_UNET_OUTER)
    table |= _resnet("middle_block.0", "mid_block.resnets.0") | _resnet("middle_block.2", "mid_block.resnets.1")
    number = 1
    for level, blocks in enumerate(res_blocks):
        for place in range(blocks):
            table |= _resnet(f"input_blocks.{number}.0", f"down_blocks.{level}.resnets.{place}")
            table[f"input_blocks.{number}.1"] = f"down_blocks.{level}.attentions.{place}"
            number += 1
        table[f"input_blocks.{number}.0.op"] = f"down_blocks.{level}.downsamplers.0.conv"
        number += 1
    number = 0
    for up, blocks in enumerate(reversed(res_blocks)):
        for place in range(blocks + 1):
            table |= _resnet(f"output_blocks.{number}.0", f"up_blocks.{up}.resnets.{place}")
            if attends[number]:
                table[f"output_blocks.{number}.1"] = f"up_blocks.{up}.attentions.{place}"
            number += 1
        table[f"output_blocks.{number - 1}.{1 + attends[number - 1]}.conv"] = f"up_blocks.{up}.upsamplers.0.conv"
    return table


def vae_layers(levels: int, res_blocks: int) -> Layers:
    """The autoencoder's layers; ours count the decoder's levels from the finest, theirs from the coarsest."""
    table: Layers = {"quant_conv": "quant_conv", "post_quant_conv": "post_quant_conv"}
    for side, way, blocks in (("encoder", "down", res_blocks), ("decoder", "up", res_blocks + 1)):
        table |= {f"{side}.{name}": f"{side}.{name}" for name in ("conv_in", "conv_out")}
        table[f"{side}.norm_out"] = f"{side}.conv_norm_out"
        for layer, name in _VAE_ATTENTION.items():
            table[f"{side}.mid.attn_1.{layer}"] = f"{side}.mid_block.attentions.0.{name}"
        for number in (1, 2):
            table |= _prefixed(_VAE_RESNET, f"{side}.mid.block_{number}", f"{side}.mid_block.resnets.{number - 1}")
        for level in range(levels):
            our_level = f"{side}.{way}.{level}"
            their_level = f"{side}.{way}_blocks.{level if side == 'encoder' else levels - 1 - level}"
            for place in range(blocks):
                table |= _prefixed(_VAE_RESNET, f"{our_level}.block.{place}", f"{their_level}.resnets.{place}")
            table[f"{our_level}.{way}sample.conv"] = f"{their_level}.{way}samplers.0.conv"
    return table


def mmdit_layers(depth: int) -> Layers:
    """The MMDiT's layers, save the fused ones."""
    table = dict(_MMDIT_OUTER)
    for block in range(depth):
        table |= _prefixed(_MMDIT_BLOCK, f"joint_blocks.{block}", f"transformer_blocks.{block}")
    return table


def swap_halves(tensor: Tensor) -> Tensor:
    """Between (shift, scale), as published, and (scale, shift), as diffusers has it."""
    return torch.cat(tensor.chunk(2)[::-1])


def _swapped_layers(depth: int) -> tuple[str, ...]:
    """Our layers whose halves diffusers stores the other way round (FORMATS.md, section 1, row 6)."""
    return "final_layer.adaLN_modulation.1", f"joint_blocks.{depth - 1}.context_block.adaLN_modulation.1"


def _resnet(ours: str, theirs: str) -> Layers:
    return _prefixed(_UNET_RESNET, ours, theirs)


def _prefixed(layers: Layers, ours: str, theirs: str) -> Layers:
    return {f"{ours}.{layer}": f"{theirs}.{name}" for layer, name in layers.items()}


def _inverted(layers: Layers) -> Layers:
    return {theirs: ours for ours, theirs in layers.items()}


def _renamed(state: Mapping[str, Tensor], layers: Layers) -> StateDict:
    """Every key by the longest layer it begins with; without one it keeps its name, and the loader names it."""
    out: StateDict = {}
    for key, tensor in state.items():
        name = next((layers[head] + key[len(head) :] for head in _heads(key) if head in layers), key)
        out[name] = tensor
    return out


def _heads(key: str) -> Iterator[str]:
    """The key, then the key without its last part, and so on."""
    while key:
        yield key
        key = key.rpartition(".")[0]


def _count(state: Mapping[str, object], name: str) -> int:
    pattern = re.compile(rf"{re.escape(name)}\.(\d+)\.")
    return 1 + max((int(match[1]) for key in state if (match := pattern.match(key))), default=-1)


def _block_and_rest(layer: str) -> tuple[str, str]:
    """Number and inner name of a layer of a joint block; empty for other layers."""
    match = re.fullmatch(r"joint_blocks\.(\d+)\.(.+)", layer)
    return (match[1], match[2]) if match else ("", "")


def _is_vae_attention(key: str) -> bool:
    return ".mid_block.attentions.0." in key
