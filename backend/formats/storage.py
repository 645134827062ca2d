"""How a part's numbers are stored: by which name a person knows it, and what they take in memory in another format."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from backend.formats.configs import Layout, PartSource
from backend.formats.header import BLOCKS, DTYPE_BYTES
from backend.formats.measure import Tensors
from backend.formats.quantised import has_scales, is_companion

_NAMES: Mapping[str, str] = {
    "F16": "fp16", "BF16": "bf16", "F32": "fp32", "F64": "fp64", "F8_E4M3": "fp8", "F8_E5M2": "fp8", "I8": "int8",
}  # fmt: skip
#: Number formats that stay as they are stored whatever the memory: half precision would take twice as much and more.
QUANTISED = frozenset({"F8_E4M3", "F8_E5M2", "I8", "U8", *BLOCKS})
_MOST = 0.95  # of a part's bytes; a few tensors in another format are usual


def part_source(paths: tuple[Path, ...], prefix: str, tensors: Tensors, layout: Layout = "canonical") -> PartSource:
    """The source of a part with these tensors (by canonical key)."""
    numbers: Counter[str] = Counter()
    companions: list[str] = []
    beside = 0
    for key, info in tensors.items():
        if is_companion(key):
            companions.append(key)
            beside += info.bytes
        else:
            numbers[info.dtype] += info.bytes
    return PartSource(
        paths=paths,
        prefix=prefix,
        bytes=numbers.total() + beside,
        precision=_precision(numbers, scaled=has_scales(companions)),
        layout=layout,
        numbers=dict(numbers),
    )


def bytes_as(source: PartSource, width: int, *, keeps_quantised: bool, keeps_all: bool) -> int:
    """What a part's numbers take as a network holds them.

    Args:
        width: bytes of one number of the arithmetic.
        keeps_quantised, keeps_all: which numbers stay as they are stored (``checkpoints.load.Arithmetic``).
    """
    total = 0
    for name, size in source.numbers.items():
        stays = keeps_all or (keeps_quantised and name in QUANTISED)
        total += size if stays else values_in(name, size) * width
    return total


def values_in(name: str, size: int) -> int:
    """How many numbers of a format so many bytes are."""
    if name in BLOCKS:
        values, block = BLOCKS[name]
        return size // block * values
    return size // DTYPE_BYTES[name]


def _precision(numbers: Counter[str], *, scaled: bool) -> str:
    """The format of nearly all numbers, else "mixed"; a GGUF file is called after its commonest block."""
    blocks = Counter({name: size for name, size in numbers.items() if name in BLOCKS})
    if blocks:
        return f"GGUF {blocks.most_common(1)[0][0]}"
    named: Counter[str] = Counter()
    for name, size in numbers.items():
        named[_NAMES.get(name, name)] += size
    if not named:
        return "mixed"
    name, most = named.most_common(1)[0]
    if scaled:
        return f"{'int8' if named['int8'] > named['fp8'] else 'fp8'} scaled"
    return name if most >= _MOST * named.total() else "mixed"
