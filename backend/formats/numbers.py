"""Reads the few small tensors whose values say what a model is (noise levels, latent statistics, one norm's bias).

Everything else in ``backend/formats`` looks at the header alone. No torch.
"""

from __future__ import annotations

import math
import struct

from backend.errors import ModelCorrupt, NotFound
from backend.formats.reader import Header, TensorInfo

MAX_VALUES = 4096
_CODES = {"F16": "e", "F32": "f", "F64": "d", "BF16": "f"}


def can_read(info: TensorInfo | None) -> bool:
    """Whether ``read_numbers`` would read such a tensor (a spread needs two values)."""
    return info is not None and 2 <= math.prod(info.shape) <= MAX_VALUES and info.dtype in _CODES


def read_numbers(header: Header, name: str) -> tuple[float, ...]:
    """The values of a small tensor, in the file's order.

    Raises:
        ModelCorrupt: if it is no small tensor of finite floating-point numbers.
        NotFound: if the file cannot be read any more.
    """
    info = header.tensors[name]
    count = math.prod(info.shape)
    if count > MAX_VALUES or info.dtype not in _CODES:
        raise ModelCorrupt(f"{name} has {count:,} values of {info.dtype}; a few floating-point numbers are expected.")
    try:
        with header.path.open("rb") as file:
            file.seek(info.offset)
            raw = file.read(info.bytes)
    except OSError as error:
        raise NotFound(f"{header.path.name} cannot be read ({error.strerror}).", "Look at the models folder.") from None
    if len(raw) != info.bytes:
        raise ModelCorrupt(f"{name} is cut: {info.bytes - len(raw)} of its {info.bytes} bytes are missing.")
    if info.dtype == "BF16":  # the upper halves of float32
        raw = b"".join(b"\0\0" + raw[at : at + 2] for at in range(0, len(raw), 2))
    values = struct.unpack(f"<{count}{_CODES[info.dtype]}", raw)
    if not all(math.isfinite(value) for value in values):
        raise ModelCorrupt(f"{name} holds values that are not finite.")
    return values
