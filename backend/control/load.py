"""From the file of a guidance network to a module: built on ``meta``, complete or not at all."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import nn

from backend.checkpoints.load import Arithmetic, fill, numbers
from backend.checkpoints.tensors import read_tensors
from backend.control.layouts import canonical, whole
from backend.errors import BadRequest
from backend.formats.control_configs import (
    ControlInfo,
    ControlNetConfig,
    MMDiTControlConfig,
    T2IAdapterConfig,
)
from backend.formats.reader import read_header
from backend.nn.controlnet import ControlNet
from backend.nn.controlnet_union import UnionControlNet
from backend.nn.mmdit_control import JointControl, SingleControl
from backend.nn.stored import plain_state
from backend.nn.t2i_adapter import T2IAdapter
from backend.nn.unet import UNet

ControlNetwork = ControlNet | UnionControlNet | T2IAdapter | JointControl | SingleControl


@dataclass(frozen=True)
class Control:
    """A loaded guidance network.

    Attributes:
        hint_type: what Stability's files say of their hint: 0 blur, 1 canny, 2 depth; None: nothing.
    """

    info: ControlInfo
    network: ControlNetwork
    hint_type: int | None = None


def load_control(info: ControlInfo, arithmetic: Arithmetic | None = None, base: nn.Module | None = None) -> Control:
    """The network of a file, in eval mode and without gradients.

    Args:
        arithmetic: as for ``load_part``.
        base: the checkpoint's U-Net, for control-LoRAs and differences; nothing of it is changed. Its weights should be
            the checkpoint's own, with no adapter in them.
    Raises:
        NotFound, ModelUnsafe, ModelCorrupt: if the file cannot be read any more, or is not complete.
        BadRequest: if it needs a checkpoint's U-Net and has none.
    """
    header = read_header(info.path)
    names = {key[len(info.prefix) :]: key for key in header.tensors if key.startswith(info.prefix)}
    tensors = numbers(read_tensors(header, names))
    config, state = info.config, canonical(info, tensors)
    if info.weights != "whole":
        if not isinstance(base, UNet) or not isinstance(config, ControlNetConfig):
            raise BadRequest(
                f"{info.path.name} ({info.kind}) holds changes to a U-Net only and needs a checkpoint that has one.",
                "Use it with a checkpoint of the family that it was trained for.",
            )
        config = replace(config, unet=replace(base.config, depth_out=()))
        state = whole(info, state, plain_state(base))
    with torch.device("meta"):
        network = build_control(config)
    fill(network, state, f"{info.kind} of {info.path.name}", arithmetic)
    told = tensors.get("control_type")
    return Control(info, network, None if told is None or told.numel() != 1 else int(told.item()))


def build_control(config: ControlNetConfig | T2IAdapterConfig | MMDiTControlConfig) -> ControlNetwork:
    """The network of a configuration."""
    match config:
        case ControlNetConfig(tasks=0):
            return ControlNet(config)
        case ControlNetConfig():
            return UnionControlNet(config)
        case T2IAdapterConfig():
            return T2IAdapter(config)
        case MMDiTControlConfig(blocks="joint"):
            return JointControl(config)
        case MMDiTControlConfig():
            return SingleControl(config)
