"""Says what a guidance network's file is, from the keys and shapes of its header; never from its name.

Sources: FORMATS.md section 5.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

from backend.errors import ModelCorrupt, ModelUnsupported
from backend.formats import easel_metadata, measure
from backend.formats.configs import MMDiTConfig, UNetConfig
from backend.formats.control_configs import (
    ControlInfo,
    ControlNetConfig,
    MMDiTControlConfig,
    T2IAdapterConfig,
    Weights,
)
from backend.formats.control_names import (
    MAX_HINT_LAYERS,
    controlnet_names,
    joint_control_names,
    single_control_names,
    t2i_names,
)
from backend.formats.measure import HEAD_DIM, Tensors
from backend.formats.reader import Header, TensorInfo

PREFIX = "control_model."
#: Marker tensors that say how the weights are stored; no layers.
MARKERS: Mapping[str, Weights] = {"lora_controlnet": "low_rank", "difference": "difference"}

_SQUEEZE = {64: (8, 1), 192: (8, 3), 256: (16, 1), 768: (16, 3)}  # T2I's first channels -> unshuffle, hint's channels


class _Kind(NamedTuple):
    """A kind of file: the keys that all must be there, and what reads it."""

    has: tuple[str, ...]
    layout: Literal["original", "diffusers"]
    read: Callable[[Tensors, Header], tuple[str, str, ControlNetConfig | T2IAdapterConfig | MMDiTControlConfig]]


def detect_control(header: Header) -> ControlInfo:
    """The guidance network of a file.

    Raises:
        ModelUnsupported: if it is of no kind that is known here.
        ModelCorrupt: if a key that its kind must have is missing or misshapen.
    """
    prefix = PREFIX if any(key.startswith(PREFIX) for key in header.tensors) else ""
    tensors = {key[len(prefix) :]: info for key, info in header.tensors.items() if key.startswith(prefix)}
    marked: list[Weights] = [kind for marker, kind in MARKERS.items() if marker in header.tensors]
    weights = marked[0] if marked else "whole"
    if weights == "low_rank":
        tensors = whole_shapes(tensors)
    kind = next((kind for kind in _KINDS if all(key in tensors for key in kind.has)), None)
    if kind is None:
        raise ModelUnsupported(
            f"{header.path.name} is no guidance network that Easel knows.",
            "Known: ControlNets for SD1, SD2, SDXL (Union, control-LoRA) and SD3, and T2I-Adapters.",
        )
    name, family, config = kind.read(tensors, header)
    if weights == "low_rank":
        name = "control-LoRA"
    return ControlInfo(
        path=header.path,
        name=header.path.stem,
        kind=name,
        family=family,
        config=config,
        weights=weights,
        layout=kind.layout,
        prefix=prefix,
    )


def whole_shapes(tensors: Tensors) -> dict[str, TensorInfo]:
    """The header of a control-LoRA as if its low-rank pairs were the weights that they make."""
    whole: dict[str, TensorInfo] = {}
    for key, info in tensors.items():
        layer, _, ending = key.rpartition(".")
        if ending == "up" and f"{layer}.down" in tensors:
            whole[f"{layer}.weight"] = TensorInfo(info.dtype, (info.shape[0], *tensors[f"{layer}.down"].shape[1:]))
        elif ending != "down" and key not in MARKERS:
            whole[key] = info
    return whole


def _controlnet(tensors: Tensors, header: Header) -> tuple[str, str, ControlNetConfig]:
    unet = easel_metadata.overridden(measure.unet_input_side(tensors), header.metadata, "easel.unet")
    convolutions = (f"input_hint_block.{2 * i}.weight" for i in range(MAX_HINT_LAYERS))  # SiLU stands between them
    shapes = [tensors[key].shape for key in convolutions if key in tensors]
    if len(shapes) < 2 or any(len(shape) != 4 for shape in shapes):
        raise ModelCorrupt("The ControlNet's hint block is incomplete.", "Download the file again.")
    for mult in unet.channel_mult:
        if unet.model_channels * mult % unet.norm_groups:
            raise ModelCorrupt(f"{unet.norm_groups} norm groups do not divide the width {unet.model_channels * mult}.")
    tasks = tensors.get("task_embedding")
    config = ControlNetConfig(
        unet=unet,
        hint_channels=shapes[0][1],
        hint_widths=tuple(shape[0] for shape in shapes[:-1]),
        tasks=tasks.shape[0] if tasks is not None and tasks.shape else 0,
        task_layers=measure.count(tensors, "transformer_layes"),
    )
    return "ControlNet Union" if config.tasks else "ControlNet", _family(unet), config


def _diffusers_controlnet(tensors: Tensors, header: Header) -> tuple[str, str, ControlNetConfig]:
    names = controlnet_names(tensors)
    return _controlnet({ours: tensors[theirs] for theirs, ours in names.items()}, header)


def _joint(tensors: Tensors, header: Header) -> tuple[str, str, MMDiTControlConfig]:
    names = joint_control_names(tensors)
    ours = {name: tensors[key] for key, name in names.items()}
    depth = measure.count(ours, "controlnet_blocks")
    hidden, in_channels, patch, _ = _shape(ours, "x_embedder.proj.weight", 4)
    norm = ours.get("joint_blocks.0.x_block.attn.ln_q.weight")
    places = _shape(ours, "pos_embed", 3)[1]
    dual = sum(f"transformer_blocks.{i}.attn2.to_q.weight" in ours for i in range(depth))
    config = MMDiTConfig(
        depth=depth,
        hidden=hidden,
        heads=hidden // _head_dim(norm),
        in_channels=in_channels,
        out_channels=in_channels,
        patch_size=patch,
        context_dim=_shape(ours, "context_embedder.weight", 2)[1],
        pooled_dim=_shape(ours, "y_embedder.mlp.0.weight", 2)[1],
        pos_embed_side=math.isqrt(places),
        qk_norm=norm is not None,
        dual_blocks=dual,
        mlp_hidden=_shape(ours, "joint_blocks.0.x_block.mlp.fc1.weight", 2)[0],
    )
    hint = _shape(ours, "pos_embed_input.proj.weight", 4)[1]
    return "ControlNet for SD3", "sd3", MMDiTControlConfig(_with_heads(config, header), hint, "joint")


def _single(tensors: Tensors, header: Header) -> tuple[str, str, MMDiTControlConfig]:
    names = single_control_names(tensors)
    ours = {name: tensors[key] for key, name in names.items()}
    hidden, hint, patch, _ = _shape(ours, "pos_embed_input.proj.weight", 4)
    pooled = _shape(ours, "y_embedder.mlp.0.weight", 2)[1]
    norm = ours.get("transformer_blocks.0.attn.ln_q.weight")
    config = MMDiTConfig(
        depth=measure.count(ours, "controlnet_blocks"),
        hidden=hidden,
        heads=hidden // _head_dim(norm),
        in_channels=hint,
        out_channels=hint,
        patch_size=patch,
        context_dim=0,
        pooled_dim=pooled,
        pos_embed_side=0,
        qk_norm=norm is not None,
        dual_blocks=0,
        mlp_hidden=_shape(ours, "transformer_blocks.0.mlp.fc1.weight", 2)[0],
    )
    is_parallel = pooled == hidden  # the pooled vector has been through the main network's embedder
    blocks = "parallel" if is_parallel else "chained"
    return "ControlNet for SD3.5", "sd3", MMDiTControlConfig(_with_heads(config, header), hint, blocks)


def _t2i(tensors: Tensors, header: Header) -> tuple[str, str, T2IAdapterConfig]:
    del header
    ours = {name: tensors[key] for key, name in t2i_names(tensors).items()}
    is_light = "conv_in.weight" not in ours
    first = _shape(ours, "body.0.in_conv.weight" if is_light else "conv_in.weight", 4)[1]
    if first not in _SQUEEZE:
        raise ModelCorrupt(f"The T2I-Adapter takes {first} channels; {', '.join(map(str, _SQUEEZE))} are known.")
    unshuffle, hint = _SQUEEZE[first]
    levels = measure.count(ours, "body")
    last = "out_conv" if is_light else "resnets.0.block1"
    config = T2IAdapterConfig(
        channels=tuple(_shape(ours, f"body.{level}.{last}.weight", 4)[0] for level in range(levels)),
        unshuffle=unshuffle,
        hint_channels=hint,
        res_blocks=measure.count(ours, "body.0.resnets"),
        halved=(2,) if unshuffle == 16 else tuple(range(1, levels)),
        is_light=is_light,
        kernel=_shape(ours, "body.0.resnets.0.block2.weight", 4)[2],
    )
    return "T2I-Adapter", "sdxl" if unshuffle == 16 else "sd1", config


#: Decisive keys -> what reads the file; the first row that holds speaks.
_KINDS: Sequence[_Kind] = (
    _Kind(("pos_embed_input.proj.weight", "transformer_blocks.0.attn.add_k_proj.weight"), "diffusers", _joint),
    _Kind(("pos_embed_input.proj.weight", "transformer_blocks.0.attn.qkv.weight"), "original", _single),
    _Kind(("pos_embed_input.proj.weight", "transformer_blocks.0.attn.to_q.weight"), "diffusers", _single),
    _Kind(("controlnet_mid_block.weight", "controlnet_cond_embedding.conv_in.weight"), "diffusers",
          _diffusers_controlnet),
    _Kind(("input_hint_block.0.weight", "zero_convs.0.0.weight"), "original", _controlnet),
    _Kind(("adapter.body.0.resnets.0.block1.weight",), "diffusers", _t2i),
    _Kind(("body.0.resnets.0.block1.weight",), "diffusers", _t2i),
    _Kind(("body.0.block1.weight", "conv_in.weight"), "original", _t2i),
    _Kind(("body.0.body.0.block1.weight", "body.0.in_conv.weight"), "original", _t2i),
)  # fmt: skip


def _family(unet: UNetConfig) -> str:
    """Which checkpoints a copy of this input side belongs to; relations, since demo checkpoints are narrower."""
    if unet.label_dim is not None:
        return "sdxl"
    return "sd2" if unet.linear_projection else "sd1"


def _with_heads(config: MMDiTConfig, header: Header) -> MMDiTConfig:
    """As the header says, where it does; heads must share the width.

    Raises:
        ModelCorrupt: if they do not.
    """
    config = easel_metadata.overridden(config, header.metadata, "easel.mmdit")
    if config.heads < 1 or config.hidden % config.heads:
        raise ModelCorrupt(f"{config.heads} heads do not share the ControlNet's width of {config.hidden}.")
    return config


def _head_dim(norm: TensorInfo | None) -> int:
    return norm.shape[0] if norm is not None and norm.shape else HEAD_DIM


def _shape(tensors: Tensors, key: str, rank: int) -> tuple[int, ...]:
    info = tensors.get(key)
    if info is None or len(info.shape) != rank:
        raise ModelCorrupt(f"The tensor {key} is missing or has not {rank} sizes.", "Download the file again.")
    return info.shape
