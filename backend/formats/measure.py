"""Network configurations counted and measured from the keys and shapes of one part; no family names, no file names.

A part is its tensors by canonical key (prefix taken off). Widths of heads are in no file: 64 wherever the published
networks have 64 (FORMATS.md, section 1, row 2).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from backend.errors import ModelCorrupt
from backend.formats.configs import CLIPConfig, MMDiTConfig, T5Config, UNetConfig, VAEConfig
from backend.formats.reader import TensorInfo

Tensors = Mapping[str, TensorInfo]

HEAD_DIM = 64
_INNER = ".transformer_blocks."


def unet_config(part: Tensors) -> UNetConfig:
    """The U-Net of these keys, block by block.

    Raises:
        ModelCorrupt: if a key that every U-Net has is missing or misshapen.
    """
    depths = _depths(part)
    side = _input_side(part, depths)
    if not side.context_dim:
        raise ModelCorrupt("The U-Net has no transformer blocks.", "Download the file again.")
    return replace(
        side,
        out_channels=_shape(part, "out.2.weight", 4)[0],
        depth_out=tuple(depths.get(f"output_blocks.{i}.1", 0) for i in range(count(part, "output_blocks"))),
    )


def unet_input_side(part: Tensors) -> UNetConfig:
    """The input blocks and the middle of these keys, which is what a ControlNet has of a U-Net; no output blocks.

    ``context_dim`` is 0 where there are no transformer blocks.

    Raises:
        ModelCorrupt: if a key that every such network has is missing or misshapen.
    """
    return _input_side(part, _depths(part))


def _input_side(part: Tensors, depths: Mapping[str, int]) -> UNetConfig:
    model_channels, in_channels, *_ = _shape(part, "input_blocks.0.0.weight", 4)
    channel_mult: list[int] = []
    res_blocks: list[int] = []
    depth_in: list[int] = []
    level_is_new = True
    for i in range(1, count(part, "input_blocks")):
        if f"input_blocks.{i}.0.op.weight" in part:
            level_is_new = True
            continue
        channels = _shape(part, f"input_blocks.{i}.0.in_layers.2.weight", 4)[0]
        if level_is_new:
            channel_mult.append(_divide(channels, model_channels, f"input_blocks.{i}"))
            res_blocks.append(0)
            level_is_new = False
        res_blocks[-1] += 1
        depth_in.append(depths.get(f"input_blocks.{i}.1", 0))
    if not res_blocks:
        raise ModelCorrupt("The U-Net has no residual blocks.", "Download the file again.")
    depth_mid = depths.get("middle_block.1", 0) if "middle_block.0.in_layers.2.weight" in part else None
    block = next((name for name in depths), None)
    linear = block is None or len(_shape(part, f"{block}.proj_in.weight")) == 2
    has_label = "label_emb.0.0.weight" in part
    sd1_heads = not linear and not has_label  # eight heads at every level
    return UNetConfig(
        in_channels=in_channels,
        out_channels=in_channels,
        model_channels=model_channels,
        channel_mult=tuple(channel_mult),
        res_blocks=tuple(res_blocks),
        depth_in=tuple(depth_in),
        depth_mid=depth_mid,
        depth_out=(),
        context_dim=_shape(part, f"{block}.transformer_blocks.0.attn2.to_k.weight", 2)[1] if block else 0,
        label_dim=_shape(part, "label_emb.0.0.weight", 2)[1] if has_label else None,
        head_dim=None if sd1_heads else HEAD_DIM,
        heads=8 if sd1_heads else None,
        linear_projection=linear,
    )


def mmdit_config(part: Tensors) -> MMDiTConfig:
    """The MMDiT of these keys. Depth and dual blocks are counted; heads follow from the width of a head.

    Raises:
        ModelCorrupt: if a key that every MMDiT has is missing or misshapen.
    """
    hidden, in_channels, patch, _ = _shape(part, "x_embedder.proj.weight", 4)
    places = _shape(part, "pos_embed", 3)[1]
    side = math.isqrt(places)
    if side * side != places:
        raise ModelCorrupt(f"The position table has {places} places, which is no square.", "Download the file again.")
    norm = part.get("joint_blocks.0.x_block.attn.ln_q.weight")
    head_dim = norm.shape[0] if norm is not None and norm.shape else HEAD_DIM
    depth = count(part, "joint_blocks")
    dual = 0
    while dual < depth and f"joint_blocks.{dual}.x_block.attn2.qkv.weight" in part:
        dual += 1
    return MMDiTConfig(
        depth=depth,
        hidden=hidden,
        heads=_divide(hidden, head_dim, "x_embedder"),
        in_channels=in_channels,
        out_channels=_divide(_shape(part, "final_layer.linear.weight", 2)[0], patch * patch, "final_layer"),
        patch_size=patch,
        context_dim=_shape(part, "context_embedder.weight", 2)[1],
        pooled_dim=_shape(part, "y_embedder.mlp.0.weight", 2)[1],
        pos_embed_side=side,
        qk_norm=norm is not None,
        dual_blocks=dual,
        mlp_hidden=_shape(part, "joint_blocks.0.x_block.mlp.fc1.weight", 2)[0],
    )


def vae_config(part: Tensors) -> VAEConfig:
    """The image autoencoder of these keys, in the original naming.

    Raises:
        ModelCorrupt: if a key that every such autoencoder has is missing or misshapen.
    """
    channels = _shape(part, "encoder.conv_in.weight", 4)[0]
    blocks = count(part, "encoder.down.0.block")
    return VAEConfig(
        latent_channels=_shape(part, "decoder.conv_in.weight", 4)[1],
        channels=channels,
        channel_mult=tuple(
            _divide(_shape(part, f"encoder.down.{i}.block.0.conv1.weight", 4)[0], channels, f"encoder.down.{i}")
            for i in range(count(part, "encoder.down"))
        ),
        res_blocks=blocks,
        quant_conv="quant_conv.weight" in part,
    )


def clip_config(part: Tensors, *, is_clip_l: bool) -> CLIPConfig:
    """A CLIP text tower in any naming (Hugging Face, with or without ``text_model.``, or open_clip).

    Activation and padding are in no file: CLIP-L has quick_gelu and pads with its end token, CLIP-G gelu and 0. The
    two special tokens are the last two of the vocabulary, as in the published one.

    Raises:
        ModelCorrupt: if a key that every such encoder has is missing or misshapen.
    """
    if "positional_embedding" in part:
        embeddings, positions, layers = "token_embedding.weight", "positional_embedding", "transformer.resblocks"
        intermediate, projection, axis = "mlp.c_fc.weight", "text_projection", 1  # used as x @ P
    else:
        root = "" if "embeddings.token_embedding.weight" in part else "text_model."
        embeddings, positions = (f"{root}embeddings.{n}_embedding.weight" for n in ("token", "position"))
        layers = f"{root}encoder.layers"
        intermediate, projection, axis = "mlp.fc1.weight", "text_projection.weight", 0
    vocab_size, width = _shape(part, embeddings, 2)
    return CLIPConfig(
        width=width,
        layers=count(part, layers),
        heads=max(1, width // HEAD_DIM),
        intermediate=_shape(part, f"{layers}.0.{intermediate}", 2)[0],
        vocab_size=vocab_size,
        positions=_shape(part, positions, 2)[0],
        projection_dim=_shape(part, projection, 2)[axis] if projection in part else None,
        activation="quick_gelu" if is_clip_l else "gelu",
        bos=vocab_size - 2,
        eos=vocab_size - 1,
        pad=vocab_size - 1 if is_clip_l else 0,
    )


def t5_config(part: Tensors) -> T5Config:
    """A T5 v1.1 encoder.

    Raises:
        ModelCorrupt: if a key that every such encoder has is missing or misshapen.
    """
    vocab_size, width = _shape(part, "shared.weight", 2)
    attention = "encoder.block.0.layer.0.SelfAttention"
    heads = _shape(part, f"{attention}.relative_attention_bias.weight", 2)[1]
    return T5Config(
        width=width,
        layers=count(part, "encoder.block"),
        heads=heads,
        d_kv=_divide(_shape(part, f"{attention}.q.weight", 2)[0], heads, attention),
        d_ff=_shape(part, "encoder.block.0.layer.1.DenseReluDense.wi_0.weight", 2)[0],
        vocab_size=vocab_size,
    )


def count(part: Tensors, name: str) -> int:
    """How many members the list ``name`` has, from 0 on without a gap."""
    start = f"{name}."
    return _without_gap({key[len(start) :].partition(".")[0] for key in part if key.startswith(start)})


def _depths(part: Tensors) -> dict[str, int]:
    """Transformer blocks by the block of the U-Net that holds them."""
    found: dict[str, set[str]] = {}
    for key in part:
        if _INNER in key:
            name, _, rest = key.partition(_INNER)
            found.setdefault(name, set()).add(rest.partition(".")[0])
    return {name: _without_gap(indices) for name, indices in found.items()}


def _without_gap(indices: set[str]) -> int:
    number = 0
    while str(number) in indices:
        number += 1
    return number


def _shape(part: Tensors, key: str, rank: int | None = None) -> tuple[int, ...]:
    info = part.get(key)
    if info is None:
        raise ModelCorrupt(f"The tensor {key} is missing.", "Download the file again.")
    if rank is not None and len(info.shape) != rank:
        raise ModelCorrupt(f"The tensor {key} has shape {list(info.shape)}, not {rank} sizes.")
    return info.shape


def _divide(whole: int, part: int, where: str) -> int:
    if whole < part or whole % part:
        raise ModelCorrupt(f"The sizes at {where} do not fit: {whole} is no multiple of {part}.")
    return whole // part
