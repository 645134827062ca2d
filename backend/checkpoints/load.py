"""From a file to modules: built on ``meta``, filled with memory-mapped tensors, complete or not at all.

Weights stay in the file's number format and in the page cache as far as the arithmetic that is asked for allows; then
reading a part takes next to no memory of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from backend.checkpoints.convert import clip_from_open_clip
from backend.checkpoints.diffusers_layout import from_diffusers
from backend.checkpoints.tensors import read_tensors
from backend.errors import Internal, ModelCorrupt, ModelUnsupported
from backend.formats.complete import counted
from backend.formats.configs import (
    CheckpointInfo,
    CLIPConfig,
    MMDiTConfig,
    Part,
    PartSource,
    PreviewInfo,
    T5Config,
    TinyDecoderConfig,
    UNetConfig,
    VAEConfig,
    VaeInfo,
)
from backend.formats.layout import is_nuisance, part_tensors
from backend.formats.preview_files import renumbered
from backend.formats.reader import read_header
from backend.nn.stored import BYTE_DTYPES, Encoded, Scratch, can_store, store

Config = UNetConfig | MMDiTConfig | VAEConfig | TinyDecoderConfig | CLIPConfig | T5Config
Weights = Mapping[str, Tensor | Encoded]

_AGAIN = "Download the file again, or use another one."


@dataclass(frozen=True)
class Arithmetic:
    """How a network will compute, and so how it is loaded.

    Attributes:
        dtype: of everything that is computed.
        keep_quantised: weights of 8 bits and fewer stay as they are stored and are decoded layer by layer.
        keep_all: so do weights of any other dtype than ``dtype``, which then take no memory beside the mapped file.
    """

    dtype: torch.dtype
    keep_quantised: bool = True
    keep_all: bool = False


def load_part(info: CheckpointInfo, part: Part, arithmetic: Arithmetic | None = None) -> nn.Module:
    """One network of a checkpoint, in eval mode and without gradients.

    Args:
        arithmetic: None leaves numbers in the file's format, whether they can be computed with or not; weights with a
            scale or in GGUF's blocks become float32.

    Raises:
        NotFound, ModelUnsafe, ModelCorrupt: as ``read_header`` does, since the file may have changed since.
        ModelCorrupt: if tensors are missing, unexpected, misshapen or no floating-point numbers; all are counted and
            the first three named.
        ModelUnsupported: if the checkpoint has no such part.
    """
    config, source = _config(info, part), info.sources[part]
    return _module(config, _read(source), f"{part} of {source.paths[0].name}", arithmetic)


def empty_part(info: CheckpointInfo, part: Part) -> nn.Module:
    """The same network on ``meta``, which reads nothing: for its layers' names and shapes."""
    with torch.device("meta"):
        return _builder(_config(info, part))()


def load_vae_file(info: VaeInfo, arithmetic: Arithmetic | None = None) -> nn.Module:
    """The VAE of a file in models/vae; otherwise as ``load_part``."""
    return _module(info.config, _read(info.source), f"VAE {info.path.name}", arithmetic)


def load_preview_decoder(info: PreviewInfo) -> nn.Module:
    """The tiny decoder of a file in models/previews; otherwise as ``load_part``."""
    weights = renumbered(_read(info.source), info.offset)
    return _module(info.config, weights, f"preview decoder {info.path.name}", None)


def _config(info: CheckpointInfo, part: Part) -> Config:
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
    return config


def _read(source: PartSource) -> Weights:
    """The tensors of a part by canonical key, as views of the mapped files."""
    weights: dict[str, Tensor | Encoded] = {}
    for path in source.paths:
        header = read_header(path)
        keys = {key: source.prefix + key for key in part_tensors(header.tensors, source.prefix)}
        weights |= read_tensors(header, {key: name for key, name in keys.items() if not is_nuisance(key)})
    match source.layout:
        case "open_clip":
            return clip_from_open_clip(numbers(weights))
        case "diffusers":
            return from_diffusers(numbers(weights))
        case "headless":
            return {f"text_model.{key}": weight for key, weight in weights.items()}
        case _:
            return weights


def numbers(weights: Weights) -> dict[str, Tensor]:
    """For layouts whose tensors have to be cut or joined: what is encoded becomes float32."""
    return {key: w.decoded(torch.float32) if isinstance(w, Encoded) else w for key, w in weights.items()}


def _module(config: Config, weights: Weights, what: str, arithmetic: Arithmetic | None) -> nn.Module:
    with torch.device("meta"):
        module = _builder(config)()
    return fill(module, weights, what, arithmetic)


def fill(module: nn.Module, weights: Weights, what: str, arithmetic: Arithmetic | None) -> nn.Module:
    """Give a network on ``meta`` its weights; then it is in eval mode and without gradients.

    Args:
        weights: by the network's own names.
        what: for errors: "ControlNet of canny.safetensors".
    Raises:
        ModelCorrupt: if tensors are missing, unexpected, misshapen or no floating-point numbers.
    """
    _check_fits(weights, module.state_dict(), what)
    module.requires_grad_(False)
    state = numbers(weights) if arithmetic is None else _settled(module, weights, arithmetic)
    module.load_state_dict(state, strict=False, assign=True)  # what is not in it has been stored
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if tensor.is_meta:
            raise Internal(f"{name} in the {what} was never filled.", "This is a fault of Easel's; please report it.")
    return module.eval()


def _settled(module: nn.Module, weights: Weights, arithmetic: Arithmetic) -> dict[str, Tensor]:
    """Store what stays as it is in its layer; the rest by key, in the arithmetic's dtype."""
    scratch = Scratch()
    layers = {f"{name}.weight": layer for name, layer in module.named_modules() if can_store(layer)}
    casts_itself = getattr(module, "casts_itself", ())
    state: dict[str, Tensor] = {}
    for key, weight in weights.items():
        quantised = isinstance(weight, Encoded) or weight.dtype in BYTE_DTYPES
        if not isinstance(weight, Encoded):
            if weight.dtype is arithmetic.dtype or (key in casts_itself and arithmetic.keep_all and not quantised):
                state[key] = weight
                continue
            weight = Encoded(weight, tuple(weight.shape))
        stays = arithmetic.keep_all or (quantised and arithmetic.keep_quantised)
        if stays and key in layers:
            store(layers[key], weight, arithmetic.dtype, scratch)
        else:
            state[key] = weight.decoded(arithmetic.dtype)
    return state


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
        case TinyDecoderConfig():
            from backend.nn.tiny_vae import TinyDecoder

            return lambda: TinyDecoder(config)
        case CLIPConfig():
            from backend.text.encoders import build_clip

            return lambda: build_clip(config)
        case T5Config():
            from backend.text.encoders import build_t5

            return lambda: build_t5(config)


def _check_fits(found: Weights, expected: Mapping[str, Tensor], what: str) -> None:
    """Every tensor is there, none is over, each has its shape and holds floating-point numbers."""
    troubles = {
        "missing": [key for key in expected if key not in found],
        "unexpected": [key for key in found if key not in expected],
        "of another shape": [
            f"{key} {list(tensor.shape)} instead of {list(expected[key].shape)}"
            for key, tensor in found.items()
            if key in expected and tuple(tensor.shape) != tuple(expected[key].shape)
        ],
        "not floating-point numbers": [
            key for key, tensor in found.items() if isinstance(tensor, Tensor) and not tensor.is_floating_point()
        ],
    }
    if any(troubles.values()):
        raise ModelCorrupt(f"The {what} is not complete: {counted(troubles)}.", _AGAIN)
