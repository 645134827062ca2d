"""GGUF files written by the gguf package, as its users' converters write them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter

from backend.formats.header import BLOCKS

Stored = tuple[np.ndarray, str]  # rows of numbers, or of bytes of blocks; number format


def random_blocks(shape: tuple[int, ...], kind: str, seed: int = 0) -> np.ndarray:
    """Bytes of blocks for a tensor of this shape, (*rows, bytes): random, with scales that are small numbers."""
    values, size = BLOCKS[kind]
    rng = np.random.default_rng(seed)
    count = int(np.prod(shape)) // values
    blocks = rng.integers(0, 256, (count, size), dtype=np.uint8)
    for place in SCALES[kind]:
        scales = rng.uniform(-0.002, 0.002, count).astype(np.float16)
        blocks[:, place : place + 2] = scales[:, None].view(np.uint8).reshape(count, 2)
    return blocks.reshape(*shape[:-1], -1)


#: Where the half-precision numbers of a block stand.
SCALES: Mapping[str, tuple[int, ...]] = {
    "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q8_0": (0,), "IQ4_NL": (0,), "IQ4_XS": (0,),
    "Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,),
}  # fmt: skip


def write_gguf(
    path: Path,
    architecture: str,
    tensors: Mapping[str, Stored],
    *,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    texts: Mapping[str, object] | None = None,
) -> Path:
    """A GGUF file; ``shapes`` are those that tensors had before they were laid out in rows that blocks divide."""
    writer = GGUFWriter(str(path), architecture)
    for key, shape in (shapes or {}).items():
        writer.add_array(f"comfy.gguf.orig_shape.{key}", list(shape))
    for key, value in (texts or {}).items():
        add = writer.add_array if isinstance(value, list) else writer.add_string
        add(key, value)  # type: ignore[arg-type]
    for key, (array, kind) in tensors.items():
        writer.add_tensor(key, array, raw_dtype=GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def numbers(stored: Stored) -> np.ndarray:
    """What the package makes of a tensor: float32."""
    array, kind = stored
    return gguf.dequantize(array, GGMLQuantizationType[kind])
