"""Our networks' state dicts in diffusers' names, so that both run with the same weights."""

from __future__ import annotations

import torch
from torch import Tensor

from backend.formats.configs import UNetConfig, VAEConfig

StateDict = dict[str, Tensor]

UNET_RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
VAE_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
MMDIT_OUTER = {
    "x_embedder.proj": "pos_embed.proj",
    "t_embedder.mlp.0": "time_text_embed.timestep_embedder.linear_1",
    "t_embedder.mlp.2": "time_text_embed.timestep_embedder.linear_2",
    "y_embedder.mlp.0": "time_text_embed.text_embedder.linear_1",
    "y_embedder.mlp.2": "time_text_embed.text_embedder.linear_2",
    "context_embedder": "context_embedder",
    "final_layer.linear": "proj_out",
}
MMDIT_IMAGE = {
    "adaLN_modulation.1": "norm1.linear",
    "attn.ln_q": "attn.norm_q",
    "attn.ln_k": "attn.norm_k",
    "attn.proj": "attn.to_out.0",
    "attn2.ln_q": "attn2.norm_q",
    "attn2.ln_k": "attn2.norm_k",
    "attn2.proj": "attn2.to_out.0",
    "mlp.fc1": "ff.net.0.proj",
    "mlp.fc2": "ff.net.2",
}
MMDIT_TEXT = {
    "adaLN_modulation.1": "norm1_context.linear",
    "attn.ln_q": "attn.norm_added_q",
    "attn.ln_k": "attn.norm_added_k",
    "attn.proj": "attn.to_add_out",
    "mlp.fc1": "ff_context.net.0.proj",
    "mlp.fc2": "ff_context.net.2",
}


def unet_prefixes(config: UNetConfig) -> dict[str, str]:
    """Our prefix of each layer -> diffusers' prefix, by position."""
    names = {
        "time_embed.0": "time_embedding.linear_1",
        "time_embed.2": "time_embedding.linear_2",
        "label_emb.0.0": "add_embedding.linear_1",
        "label_emb.0.2": "add_embedding.linear_2",
        "input_blocks.0.0": "conv_in",
        "middle_block.0": "mid_block.resnets.0",
        "middle_block.1": "mid_block.attentions.0",
        "middle_block.2": "mid_block.resnets.1",
        "out.0": "conv_norm_out",
        "out.2": "conv_out",
    }
    levels = len(config.channel_mult)
    number, depths = 1, iter(config.depth_in)
    for level in range(levels):
        for place in range(config.res_blocks[level]):
            names[f"input_blocks.{number}.0"] = f"down_blocks.{level}.resnets.{place}"
            if next(depths):
                names[f"input_blocks.{number}.1"] = f"down_blocks.{level}.attentions.{place}"
            number += 1
        if level < levels - 1:
            names[f"input_blocks.{number}.0.op"] = f"down_blocks.{level}.downsamplers.0.conv"
            number += 1
    number, depths = 0, iter(config.depth_out)
    for up, level in enumerate(reversed(range(levels))):
        for place in range(config.res_blocks[level] + 1):
            names[f"output_blocks.{number}.0"] = f"up_blocks.{up}.resnets.{place}"
            after = 1
            if next(depths):
                names[f"output_blocks.{number}.1"] = f"up_blocks.{up}.attentions.{place}"
                after = 2
            if level > 0 and place == config.res_blocks[level]:
                names[f"output_blocks.{number}.{after}.conv"] = f"up_blocks.{up}.upsamplers.0.conv"
            number += 1
    return names


def unet_to_diffusers(state: StateDict, config: UNetConfig) -> StateDict:
    """Every key renamed; a key without a name is an error."""
    names = unet_prefixes(config)
    out: StateDict = {}
    for key, tensor in state.items():
        prefix = max((p for p in names if key.startswith(p + ".")), key=len)
        rest = key[len(prefix) + 1 :]
        if ".resnets." in names[prefix]:
            layer, kind = rest.rsplit(".", 1)
            rest = f"{UNET_RESNET[layer]}.{kind}"
        out[f"{names[prefix]}.{rest}"] = tensor
    return out


def vae_to_diffusers(state: StateDict, config: VAEConfig) -> StateDict:
    """Every key renamed; the 1x1 convolutions of the attention become linear weights."""
    last = len(config.channel_mult) - 1
    out: StateDict = {}
    for key, tensor in state.items():
        match key.split("."):
            case [side, "mid", "attn_1", layer, kind]:
                name = f"{side}.mid_block.attentions.0.{VAE_ATTENTION[layer]}.{kind}"
                tensor = tensor.flatten(1) if tensor.ndim == 4 else tensor
            case [side, "mid", block, *rest]:
                name = ".".join([side, "mid_block.resnets", str(int(block[-1]) - 1), *rest])
            case ["encoder", "down", level, *rest]:
                name = ".".join(["encoder.down_blocks", level, *rest])
            case ["decoder", "up", level, *rest]:
                name = ".".join(["decoder.up_blocks", str(last - int(level)), *rest])
            case _:
                name = key.replace("norm_out", "conv_norm_out")
        for ours, theirs in (
            (".block.", ".resnets."),
            (".downsample.", ".downsamplers.0."),
            (".upsample.", ".upsamplers.0."),
            ("nin_shortcut", "conv_shortcut"),
        ):
            name = name.replace(ours, theirs)
        out[name] = tensor
    return out


def mmdit_to_diffusers(state: StateDict) -> StateDict:
    """Every key renamed, fused projections split, and shift and scale of the last modulations swapped."""
    last = max(int(key.split(".")[1]) for key in state if key.startswith("joint_blocks."))
    out: StateDict = {"pos_embed.pos_embed": state["pos_embed"]}
    for key, tensor in state.items():
        layer, _, kind = key.rpartition(".")
        if key == "pos_embed":
            continue
        if layer == "final_layer.adaLN_modulation.1":
            out[f"norm_out.linear.{kind}"] = swap_halves(tensor)
            continue
        if not key.startswith("joint_blocks."):
            out[f"{MMDIT_OUTER[layer]}.{kind}"] = tensor
            continue
        _, index, side, inner = layer.split(".", 3)
        block = f"transformer_blocks.{index}"
        if inner.endswith("qkv"):
            attention = inner.removesuffix(".qkv")
            text = side == "context_block"
            targets = ("add_q_proj", "add_k_proj", "add_v_proj") if text else ("to_q", "to_k", "to_v")
            for target, part in zip(targets, tensor.chunk(3), strict=True):
                out[f"{block}.{attention}.{target}.{kind}"] = part
            continue
        if int(index) == last and side == "context_block" and inner == "adaLN_modulation.1":
            tensor = swap_halves(tensor)
        names = MMDIT_TEXT if side == "context_block" else MMDIT_IMAGE
        out[f"{block}.{names[inner]}.{kind}"] = tensor
    return out


def swap_halves(tensor: Tensor) -> Tensor:
    """(shift, scale) -> (scale, shift)."""
    return torch.cat(tensor.chunk(2)[::-1])
