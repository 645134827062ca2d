"""What the header of a model file tells, whatever the container: names, number formats, shapes, places."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Literal

MAX_HEADER = 100_000_000
MAX_KEYS = 100_000
MAX_METADATA = 10_000_000
MAX_RANK = 5
MAX_NAME = 1_000

Container = Literal["safetensors", "gguf"]

#: Number formats of one value each -> its bytes, in safetensors' words.
DTYPE_BYTES: Mapping[str, int] = MappingProxyType(
    {"BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2}
    | {"U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8}
)

#: GGUF's blocks: so many values share so many bytes (ggml-common.h of ggml-org/llama.cpp).
BLOCKS: Mapping[str, tuple[int, int]] = MappingProxyType(
    {"Q4_0": (32, 18), "Q4_1": (32, 20), "Q5_0": (32, 22), "Q5_1": (32, 24), "Q8_0": (32, 34), "IQ4_NL": (32, 18)}
    | {"Q2_K": (256, 84), "Q3_K": (256, 110), "Q4_K": (256, 144), "Q5_K": (256, 176), "Q6_K": (256, 210)}
    | {"IQ4_XS": (256, 136)}
)


@dataclass(frozen=True)
class TensorInfo:
    """One tensor as the header tells it.

    Attributes:
        dtype: in safetensors' words ("F16", "BF16", "F8_E4M3" ...), or the name of a GGUF block ("Q4_K").
        offset: where its first byte stands in the file.
    """

    dtype: str
    shape: tuple[int, ...]
    offset: int = field(default=0, compare=False)

    @property
    def values(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """Size in the file."""
        one = DTYPE_BYTES.get(self.dtype)
        if one is not None:
            return math.prod(self.shape) * one
        values, size = BLOCKS[self.dtype]
        return self.values // values * size


@dataclass(frozen=True)
class Header:
    """All that a model file says of itself before its tensors; GGUF too by published names, outermost size first."""

    path: Path
    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]
    file_bytes: int
    container: Container = "safetensors"
    label: str = ""

    @property
    def name(self) -> str:
        """How the model is called: a folder's name, else the file's without its suffix."""
        return self.label or self.path.stem
