"""From a file to modules: built on ``meta``, filled with memory-mapped tensors, complete or not at all.

Weights stay in the file's number format and in the page cache until someone casts or writes them; reading a part
takes next to no memory of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from backend.checkpoints.convert import StateDict, clip_from_open_clip
from backend.checkpoints.diffusers_layout import from_diffusers
from backend.errors import Internal, ModelCorrupt, ModelUnsupported, NotFound
from backend.formats.complete import counted
from backend.formats.configs import (
    CheckpointInfo,
    CLIPConfig,
    MMDiTConfig,
    Part,
    PartSource,
    T5Config,
    UNetConfig,
    VAEConfig,
    VaeInfo,
)
from backend.formats.layout import is_nuisance, part_tensors
from backend.formats.reader import read_header

Config = UNetConfig | MMDiTConfig | VAEConfig | CLIPConfig | T5Config

_AGAIN = "Download the file again, or use another one."


def load_part(info: CheckpointInfo, part: Part) -> nn.Module:
    """One network of a checkpoint, in the file's number format, in eval mode and without gradients.

    Raises:
        NotFound, ModelUnsafe, ModelCorrupt: as ``read_header`` does, since the file may have changed since.
        ModelCorrupt: if tensors are missing, unexpected, misshapen or no floating-point numbers; all are counted and
            the first three named.
        ModelUnsupported: if the checkpoint has no such part.
    """
    configs: Mapping[Part, Config | None] = {
        "denoiser": info.denoiser,
        "vae": info.vae,
        "clip_l": info.clip_l,
        "clip_g": info.clip_g,
        "clip_h": info.clip_h,
        "t5": info.t5,
    }
    config = configs[part]
    if config is None or part not in info.sources:
        raise ModelUnsupported(f"{info.path.name} has no part {part!r}.", "Use a checkpoint that contains it.")
    return _module(config, _read(info.sources[part]), f"{part} of {info.path.name}")


def load_vae_file(info: VaeInfo) -> nn.Module:
    """The VAE of a file in models/vae; otherwise as ``load_part``."""
    return _module(info.config, _read(info.source), f"VAE {info.path.name}")


def _read(source: PartSource) -> StateDict:
    """The tensors of a part by canonical key, as views of the mapped files."""
    state: StateDict = {}
    for path in source.paths:
        state |= _read_file(path, source.prefix)
    match source.layout:
        case "open_clip":
            return clip_from_open_clip(state)
        case "diffusers":
            return from_diffusers(state)
        case "headless":
            return {f"text_model.{key}": tensor for key, tensor in state.items()}
        case _:
            return state


def _read_file(path: Path, prefix: str) -> StateDict:
    """The tensors of one file under a prefix, which is taken off their keys."""
    keys = part_tensors(read_header(path).tensors, prefix)
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {key: file.get_tensor(prefix + key) for key in keys if not is_nuisance(key)}
    except FileNotFoundError:
        raise NotFound(f"{path.name} is not there any more.", "Look at the models folder.") from None
    except (SafetensorError, OSError) as error:
        raise ModelCorrupt(f"{path.name} cannot be read: {error}.", _AGAIN) from error


def _module(config: Config, state: StateDict, what: str) -> nn.Module:
    with torch.device("meta"):
        module = _builder(config)()
    _check_fits(state, module.state_dict(), what)
    module.requires_grad_(False)
    module.load_state_dict(state, strict=True, assign=True)
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if tensor.is_meta:
            raise Internal(f"{name} in the {what} was never filled.", "This is a fault of Easel's; please report it.")
    return module.eval()


def _builder(config: Config) -> Callable[[], nn.Module]:
    """The class of a configuration. Imported as needed: the text encoders' library alone takes seconds."""
    match config:
        case UNetConfig():
            from backend.nn.unet import UNet

            return lambda: UNet(config)
        case MMDiTConfig():
            from backend.nn.mmdit import MMDiT

            return lambda: MMDiT(config)
        case VAEConfig():
            from backend.nn.vae import VAE

            return lambda: VAE(config)
        case CLIPConfig():
            from backend.text.encoders import build_clip

            return lambda: build_clip(config)
        case T5Config():
            from backend.text.encoders import build_t5

            return lambda: build_t5(config)


def _check_fits(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], what: str) -> None:
    """Every tensor is there, none is over, each has its shape and holds floating-point numbers."""
    troubles = {
        "missing": [key for key in expected if key not in found],
        "unexpected": [key for key in found if key not in expected],
        "of another shape": [
            f"{key} {list(tensor.shape)} instead of {list(expected[key].shape)}"
            for key, tensor in found.items()
            if key in expected and tensor.shape != expected[key].shape
        ],
        "not floating-point numbers": [key for key, tensor in found.items() if not tensor.is_floating_point()],
    }
    if any(troubles.values()):
        raise ModelCorrupt(f"The {what} is not complete: {counted(troubles)}.", _AGAIN)
