"""Networks as GGUF converters write them, with the numbers that they hold."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType
from torch import Tensor

from tests.formats.gguf_files import numbers, random_blocks, write_gguf

#: Published names of a T5 encoder -> llama.cpp's, applied in this order.
_LLAMA_CPP: Mapping[str, str] = {
    "shared.": "token_embd.", "encoder.final_layer_norm.": "enc.output_norm.", "encoder.block.": "enc.blk.",
    "layer.0.SelfAttention.relative_attention_bias": "attn_rel_b", "layer.0.SelfAttention.": "attn_",
    "layer.0.layer_norm": "attn_norm", "layer.1.layer_norm": "ffn_norm", "layer.1.DenseReluDense.wi_0": "ffn_gate",
    "layer.1.DenseReluDense.wi_1": "ffn_up", "layer.1.DenseReluDense.wo": "ffn_down",
}  # fmt: skip


def llama_cpp_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A T5 encoder by llama.cpp's names."""
    renamed: dict[str, Tensor] = {}
    for key, tensor in state.items():
        for ours, theirs in _LLAMA_CPP.items():
            key = key.replace(ours, theirs)
        renamed[key] = tensor
    return renamed


def as_gguf(
    path: Path,
    state: Mapping[str, Tensor],
    kind: str,
    prefix: str = "",
    arch: str = "sd3",
    texts: Mapping[str, object] | None = None,
) -> tuple[Path, dict[str, Tensor]]:
    """Matrices in random blocks, convolutions in rows, the rest in float32; what they are in float32 beside it.

    With F16 or BF16 everything is in that format and nothing is random.
    """
    tensors: dict[str, tuple[np.ndarray, str]] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    values: dict[str, Tensor] = {}
    for number, (key, tensor) in enumerate(state.items()):
        shape, array = tuple(tensor.shape), tensor.float().numpy()
        if tensor.ndim == 4 and tensor.numel() % 256 == 0 and shape[-1] % 256:
            shapes[prefix + key] = shape
            shape = (tensor.numel() // 256, 256)
        block = {"Q4_0": 32, "Q8_0": 32}.get(kind, 256)
        if kind in ("F16", "BF16"):
            stored = (gguf.quantize(array, GGMLQuantizationType[kind]), kind)
        elif tensor.ndim > 1 and shape[-1] % block == 0 and "pos_embed" not in key:
            stored = (random_blocks(shape, kind, number), kind)
        else:
            stored = (array, "F32")
        tensors[prefix + key] = stored
        values[key] = torch.from_numpy(numbers(stored).reshape(tuple(tensor.shape)).astype(np.float32))
    return write_gguf(path, arch, tensors, shapes=shapes, texts=texts), values
