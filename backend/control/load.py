"""From the file of a guidance network to a module: built on ``meta``, complete or not at all."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from backend.control.layouts import canonical, whole
from backend.errors import BadRequest, ModelCorrupt, NotFound
from backend.formats.control_configs import (
    ControlInfo,
    ControlNetConfig,
    MMDiTControlConfig,
    T2IAdapterConfig,
)
from backend.nn.controlnet import ControlNet
from backend.nn.controlnet_union import UnionControlNet
from backend.nn.mmdit_control import JointControl, SingleControl
from backend.nn.t2i_adapter import T2IAdapter
from backend.nn.unet import UNet

ControlNetwork = ControlNet | UnionControlNet | T2IAdapter | JointControl | SingleControl

_AGAIN = "Download the file again, or use another one."


@dataclass(frozen=True)
class Control:
    """A loaded guidance network.

    Attributes:
        hint_type: what Stability's files say of their hint: 0 blur, 1 canny, 2 depth; None: nothing.
    """

    info: ControlInfo
    network: ControlNetwork
    hint_type: int | None = None


def load_control(info: ControlInfo, base: nn.Module | None = None) -> Control:
    """The network of a file, in the file's number format, in eval mode and without gradients.

    Args:
        base: the checkpoint's U-Net, for control-LoRAs and differences; nothing of it is changed.
    Raises:
        NotFound, ModelCorrupt: if the file cannot be read any more, or is not complete.
        BadRequest: if it needs a checkpoint's U-Net and has none.
    """
    tensors = _read(info)
    config = info.config
    if info.weights != "whole":
        if not isinstance(base, UNet) or not isinstance(config, ControlNetConfig):
            raise BadRequest(
                f"{info.path.name} ({info.kind}) holds changes to a U-Net only and needs a checkpoint that has one.",
                "Use it with a checkpoint of the family that it was trained for.",
            )
        config = replace(config, unet=replace(base.config, depth_out=()))
        state = whole(info, canonical(info, tensors), base.state_dict())
    else:
        state = canonical(info, tensors)
    with torch.device("meta"):
        network = build_control(config)
    _fill(network, state, info.path.name)
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


def _read(info: ControlInfo) -> dict[str, Tensor]:
    try:
        with safe_open(info.path, framework="pt", device="cpu") as file:
            keys = [key for key in file.keys() if key.startswith(info.prefix)]  # noqa: SIM118  # no mapping
            return {key[len(info.prefix) :]: file.get_tensor(key) for key in keys}
    except FileNotFoundError:
        raise NotFound(f"{info.path.name} is not there any more.", "Look at the models folder.") from None
    except (SafetensorError, OSError) as error:
        raise ModelCorrupt(f"{info.path.name} cannot be read: {error}.", _AGAIN) from error


def _fill(network: ControlNetwork, state: dict[str, Tensor], name: str) -> None:
    """Assign the tensors; every one has its place, and every place its tensor."""
    expected = network.state_dict()
    troubles = {
        "missing": [key for key in expected if key not in state],
        "unexpected": [key for key in state if key not in expected],
        "of another shape": [key for key in state if key in expected and state[key].shape != expected[key].shape],
        "not floating-point numbers": [key for key in state if not state[key].is_floating_point()],
    }
    sentences = [
        f"{len(keys)} {trouble} ({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})"
        for trouble, keys in troubles.items()
        if keys
    ]
    if sentences:
        raise ModelCorrupt(f"{name} is not complete: tensors {'; '.join(sentences)}.", _AGAIN)
    network.requires_grad_(False)
    network.load_state_dict(state, strict=True, assign=True)
    network.eval()
