"""Model files without weights: a real header before a hole, gigabytes that take kilobytes of disk."""

from __future__ import annotations

import gzip
import json
import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from backend.formats.reader import DTYPE_BYTES

HEADERS = Path(__file__).resolve().parent.parent / "headers"

CODES = {"F16": "e", "F32": "f", "F64": "d"}
Tensors = dict[str, tuple[str, list[int]]]  # name -> dtype, shape


def published(name: str) -> Tensors:
    """The key list of a published file (see tests/headers)."""
    tensors: Tensors = {}
    with gzip.open(HEADERS / f"{name}.tsv.gz", "rt") as lines:
        for line in lines:
            key, dtype, shape = line.rstrip("\n").split("\t")
            tensors[key] = (dtype, [int(n) for n in shape.split(",")] if shape else [])
    return tensors


def keys(*names: str, shape: Iterable[int] = (8, 8)) -> Tensors:
    """Tensors of which only the names matter."""
    return {name: ("F16", list(shape)) for name in names}


def write_sparse(
    path: Path,
    tensors: Tensors,
    metadata: Mapping[str, str] | None = None,
    values: Mapping[str, Sequence[float]] | None = None,
) -> Path:
    """A file with this header, its tensors a hole but for those with ``values``."""
    entries: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for key, (dtype, shape) in tensors.items():
        begin, end = end, end + DTYPE_BYTES[dtype] * math.prod(shape)
        entries[key] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    header = json.dumps(entries).encode()
    write_raw(path, header, hole=end)
    with path.open("r+b") as file:
        for key, numbers in (values or {}).items():
            begin = entries[key]["data_offsets"][0]  # type: ignore[index]
            file.seek(8 + len(header) + begin)
            file.write(struct.pack(f"<{len(numbers)}{CODES[tensors[key][0]]}", *numbers))
    return path


def put_published(folder: Path, name: str, content: str = "sdxl_base") -> Path:
    """Write a published file's keys without its weights as ``folder/name``."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_sparse(path, published(content))


def write_raw(path: Path, header: bytes, *, hole: int = 0, length: int | None = None) -> Path:
    """A file with these header bytes, announced as ``length`` bytes (rightly unless given)."""
    with path.open("wb") as file:
        file.write((len(header) if length is None else length).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + hole)
    return path
