"""Writes a file of a published model's true size and keys with random weights, one tensor after another."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

from backend.errors import DiskFull
from backend.formats.full_size import FullSize, weight_spread
from backend.formats.header import DTYPE_BYTES

SPARE = 2 << 30  # bytes of the disk that stay free
RUN = 4_194_301  # random numbers that are drawn once and used again; a prime, so that no two rows are the same
FP8_SPREAD = 100.0  # of the numbers as float8, whose largest is 448

Tensors = Mapping[str, tuple[str, tuple[int, ...]]]


def write_full_size(path: Path, model: FullSize, *, seed: int = 0) -> int:
    """Write the file; it needs the memory of a few millions of numbers, whatever its size.

    Returns:
        Its bytes.
    Raises:
        DiskFull: before anything is written if the disk has too little room, or while it is written; nothing is left.
    """
    tensors = model.tensors()
    header = _header(tensors)
    size = len(header) + sum(_bytes(*entry) for entry in tensors.values())
    free = shutil.disk_usage(path.parent).free
    if free < size + SPARE:
        raise DiskFull(
            f"{path.name} takes {size / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB are free in {path.parent}.",
            "Free some space, or give another data folder.",
        )
    noise = np.random.default_rng(seed).standard_normal(RUN, dtype=np.float32)
    codes = torch.from_numpy(noise * FP8_SPREAD).clamp(-448, 448).to(torch.float8_e4m3fn).view(torch.uint8).numpy()
    try:
        with path.open("wb") as file:
            file.write(header)
            for name, (dtype, shape) in tensors.items():
                _write(file, _numbers(name, dtype, shape, tensors, noise, codes), math.prod(shape))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        path.unlink(missing_ok=True)
        raise DiskFull(f"{path.name} could not be written: {error.strerror}.", "Free some space.") from error
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return size


def _numbers(
    name: str, dtype: str, shape: tuple[int, ...], tensors: Tensors, noise: np.ndarray, codes: np.ndarray
) -> np.ndarray:
    """Numbers of a tensor in its format; it takes them again and again."""
    if dtype == "F8_E4M3":
        return codes
    if dtype == "F32":  # the scale of the weight before it
        _, spread = weight_spread("weight", tensors[name.removesuffix("scale_weight") + "weight"][1])
        return np.array([spread / FP8_SPREAD], dtype=np.float32)
    mean, spread = weight_spread(name, shape)
    return (noise[: math.prod(shape)] * spread + mean).astype(np.float16)


def _write(file: BinaryIO, numbers: np.ndarray, count: int) -> None:
    while count > 0:
        run = numbers[:count]
        file.write(run.tobytes())
        count -= len(run)


def _header(tensors: Tensors) -> bytes:
    """The length and the JSON of a safetensors header, padded so that every number is aligned."""
    text = json.dumps(dict(_entries(tensors)), separators=(",", ":")).encode()
    text += b" " * (-len(text) % 64)
    return len(text).to_bytes(8, "little") + text


def _entries(tensors: Tensors) -> Iterator[tuple[str, object]]:
    end = 0
    for name, (dtype, shape) in tensors.items():
        begin, end = end, end + _bytes(dtype, shape)
        yield name, {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def _bytes(dtype: str, shape: tuple[int, ...]) -> int:
    return math.prod(shape) * DTYPE_BYTES[dtype]
