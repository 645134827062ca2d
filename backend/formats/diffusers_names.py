"""diffusers' names of our layers (folders with ``unet/``, ``transformer/``, ``vae/``), as tables; no torch.

Each table lists our layer and theirs; a key is a layer and what follows it. Detection reads headers by them, the
loader tensors and the adapters their targets. The text encoders need none: they have the Hugging Face names already.

Source: diffusers 0.42.1, the modules' attribute names and ``single_file_utils.py`` (``swap_scale_shift``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

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
VAE_FORMER_NAMES: Layers = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}

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
#: More than any model has: a hostile header names block 999999 and would make a table of as many rows.
MAX_LEVELS, MAX_BLOCKS, MAX_DEPTH = 16, 16, 256
_UP_ATTENTION = re.compile(r"up_blocks\.\d+\.attentions\.\d+\.")
#: Our fused q, k, v by rows -> their three layers.
MMDIT_FUSED: Mapping[str, tuple[str, str, str]] = {
    "x_block.attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "x_block.attn2.qkv": ("attn2.to_q", "attn2.to_k", "attn2.to_v"),
    "context_block.attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
}


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


def swapped_layers(depth: int) -> tuple[str, ...]:
    """Our layers whose halves diffusers stores the other way round (FORMATS.md, section 1, row 6)."""
    return "final_layer.adaLN_modulation.1", f"joint_blocks.{depth - 1}.context_block.adaLN_modulation.1"


def inverted(layers: Layers) -> Layers:
    """Theirs -> ours."""
    return {theirs: ours for ours, theirs in layers.items()}


def renamed(key: str, layers: Layers) -> str:
    """A key by the longest layer it begins with; without one it keeps its name, so that whoever reads it is told."""
    return next((layers[head] + key[len(head) :] for head in _heads(key) if head in layers), key)


def count_members(keys: Iterable[str], name: str) -> int:
    """One more than the highest member of the list ``name``; 0 if it has none."""
    pattern = re.compile(rf"{re.escape(name)}\.(\d{{1,6}})\.")
    return 1 + max((int(match[1]) for key in keys if (match := pattern.match(key))), default=-1)


def unet_names(keys: Iterable[str]) -> dict[str, str]:
    """Each key of a U-Net in diffusers naming -> ours."""
    keys = list(keys)
    levels = min(count_members(keys, "down_blocks"), MAX_LEVELS)
    res_blocks = [min(count_members(keys, f"down_blocks.{level}.resnets"), MAX_BLOCKS) for level in range(levels)]
    attending = {match[0] for key in keys if (match := _UP_ATTENTION.match(key))}
    attends = [
        f"up_blocks.{up}.attentions.{place}." in attending
        for up in range(levels)
        for place in range(res_blocks[levels - 1 - up] + 1)
    ]
    layers = inverted(unet_layers(res_blocks, attends))
    return {key: renamed(key, layers) for key in keys}


def vae_names(keys: Iterable[str]) -> dict[str, str]:
    """Each key of an autoencoder in diffusers naming, of any age, -> ours."""
    keys = list(keys)
    levels = min(count_members(keys, "encoder.down_blocks"), MAX_LEVELS)
    blocks = min(count_members(keys, "encoder.down_blocks.0.resnets"), MAX_BLOCKS)
    layers = inverted(vae_layers(levels, blocks))
    return {key: renamed(_current_vae_key(key), layers) for key in keys}


def mmdit_names(keys: Iterable[str]) -> dict[str, str]:
    """Each key of an MMDiT in diffusers naming -> ours; those of the split q, k, v keep their names."""
    keys = list(keys)
    layers = inverted(mmdit_layers(min(count_members(keys, "transformer_blocks"), MAX_DEPTH)))
    return {key: renamed(key, layers) for key in keys}


def mmdit_fused(keys: Iterable[str]) -> dict[str, tuple[str, str, str]]:
    """Each fused key of ours -> the keys of its q, k and v in diffusers naming, where all three are there."""
    found = set(keys)
    fused: dict[str, tuple[str, str, str]] = {}
    for block in range(min(count_members(found, "transformer_blocks"), MAX_DEPTH)):
        for ours, (q, k, v) in MMDIT_FUSED.items():
            for kind in ("weight", "bias"):
                stem = f"transformer_blocks.{block}"
                theirs = (f"{stem}.{q}.{kind}", f"{stem}.{k}.{kind}", f"{stem}.{v}.{kind}")
                if found.issuperset(theirs):
                    fused[f"joint_blocks.{block}.{ours}.{kind}"] = theirs
    return fused


def is_vae_attention(key: str) -> bool:
    """Whether a key belongs to the middle attention, whose weights diffusers stores as matrices."""
    return ".mid_block.attentions.0." in key


def _current_vae_key(key: str) -> str:
    """The attention's layers as diffusers names them since 0.18."""
    if not is_vae_attention(key):
        return key
    layer, _, kind = key.rpartition(".")
    stem, _, name = layer.rpartition(".")
    return f"{stem}.{VAE_FORMER_NAMES.get(name, name)}.{kind}"


def _resnet(ours: str, theirs: str) -> Layers:
    return _prefixed(_UNET_RESNET, ours, theirs)


def _prefixed(layers: Layers, ours: str, theirs: str) -> Layers:
    return {f"{ours}.{layer}": f"{theirs}.{name}" for layer, name in layers.items()}


def _heads(key: str) -> Iterator[str]:
    """The key, then the key without its last part, and so on."""
    while key:
        yield key
        key = key.rpartition(".")[0]
