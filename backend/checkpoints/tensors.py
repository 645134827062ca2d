"""Tensors of model files as views of the mapped file, whatever the container; quantised ones as ``Encoded``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from backend.errors import ModelCorrupt, NotFound
from backend.formats.header import BLOCKS, Header
from backend.formats.quantised import (
    FORMAT,
    KNOWN,
    MAX_TEXT,
    SCALES,
    is_companion,
    layer_format,
    metadata_formats,
)
from backend.nn.stored import BYTE_DTYPES, Encoded

_AGAIN = "Download the file again, or use another one."
_GGUF_DTYPES: Mapping[str, torch.dtype] = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
}  # fmt: skip
_FORMAT_DTYPES: Mapping[str, torch.dtype] = {
    "float8_e4m3fn": torch.float8_e4m3fn,
    "float8_e5m2": torch.float8_e5m2,
    "int8_tensorwise": torch.int8,
}


def read_tensors(header: Header, keys: Mapping[str, str]) -> dict[str, Tensor | Encoded]:
    """Tensors of one part by canonical key.

    A weight with a scale beside it becomes one ``Encoded`` and its companions are gone; so do GGUF's blocks. Nothing is
    copied.

    Args:
        keys: canonical key -> key in the file.
    Raises:
        NotFound, ModelCorrupt: if the file is gone or cannot be read, or a scale has no weight.
        ModelUnsupported: for a format of quantised weights that is not known, by its name.
    """
    if header.container == "gguf":
        return _from_gguf(header, keys)
    plain = _from_safetensors(header.path, keys)
    return _joined(plain, keys, header)


def _from_safetensors(path: Path, keys: Mapping[str, str]) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {key: file.get_tensor(name) for key, name in keys.items()}
    except FileNotFoundError:
        raise NotFound(f"{path.name} is not there any more.", "Look at the models folder.") from None
    except (SafetensorError, OSError) as error:
        raise ModelCorrupt(f"{path.name} cannot be read: {error}.", _AGAIN) from error


def _from_gguf(header: Header, keys: Mapping[str, str]) -> dict[str, Tensor | Encoded]:
    path = header.path
    try:
        whole = torch.from_file(str(path), shared=False, size=header.file_bytes, dtype=torch.uint8)
    except (OSError, RuntimeError) as error:
        raise ModelCorrupt(f"{path.name} cannot be read: {error}.", _AGAIN) from error
    out: dict[str, Tensor | Encoded] = {}
    for key, name in keys.items():
        info = header.tensors[name]
        data = whole[info.offset : info.offset + info.bytes]
        if info.dtype in BLOCKS:
            out[key] = Encoded(data.view(-1, BLOCKS[info.dtype][1]), info.shape, blocks=info.dtype)
        else:
            out[key] = data.view(_GGUF_DTYPES[info.dtype]).view(info.shape)
    return out


def _joined(plain: Mapping[str, Tensor], keys: Mapping[str, str], header: Header) -> dict[str, Tensor | Encoded]:
    """Weights and the scales beside them as one."""
    said = metadata_formats(header.metadata, header.path.name)
    out: dict[str, Tensor | Encoded] = {key: tensor for key, tensor in plain.items() if not is_companion(key)}
    for key, tensor in plain.items():
        layer, _, kind = key.rpartition(".")
        if kind == FORMAT:
            said[keys[key].rpartition(".")[0]] = layer_format(_text(tensor), f"{layer} of {header.path.name}")
    scales = {
        key.rpartition(".")[0]: tensor for key, tensor in plain.items() if key.rpartition(".")[2] in SCALES
    }  # layer -> scale
    for layer in {*scales, *(key.rpartition(".")[0] for key in plain if key.endswith("." + FORMAT))}:
        weight = f"{layer}.weight"
        if weight not in plain:
            raise ModelCorrupt(f"{header.path.name} has a scale of {weight}, but not the weight.", _AGAIN)
        name = keys[weight]
        out[weight] = _encoded(
            plain[weight], scales.get(layer), said.get(name.rpartition(".")[0]), f"{name} of {header.path.name}"
        )
    return out


def _encoded(weight: Tensor, scale: Tensor | None, format_name: str | None, where: str) -> Tensor | Encoded:
    if format_name is not None:
        target = _FORMAT_DTYPES[format_name]
        if weight.dtype is torch.uint8 and "U8" in KNOWN[format_name]:
            weight = weight.view(target)
        if weight.dtype is not target:
            raise ModelCorrupt(f"{where} should be {format_name} but is {weight.dtype}.", _AGAIN)
    if scale is None:
        return weight if weight.dtype is not torch.int8 else Encoded(weight, tuple(weight.shape))
    if weight.dtype not in BYTE_DTYPES and not weight.is_floating_point():
        raise ModelCorrupt(f"{where} has a scale, but is stored as {weight.dtype}.", _AGAIN)
    if not scale.is_floating_point() or scale.numel() not in (1, weight.shape[0] if weight.ndim else 1):
        raise ModelCorrupt(f"The scale of {where} has shape {list(scale.shape)}, which does not fit it.", _AGAIN)
    scale = scale.float().reshape(() if scale.numel() == 1 else (-1,))
    return Encoded(weight, tuple(weight.shape), scale)


def _text(tensor: Tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()[:MAX_TEXT]
