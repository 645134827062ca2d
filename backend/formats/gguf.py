"""Reads the header of a GGUF file, and nothing else: counts, strings and places are bounded before they are believed.

It comes out as a safetensors header does: published names, shapes outermost first. Needs neither torch nor the
``gguf`` package, which the tests have as their oracle.

Sources: ggml-org/ggml docs/gguf.md; the reshaped convolutions: city96's converter (FORMATS.md 2.5); T5's names:
llama.cpp's ``enc.*``.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO

from backend.errors import ModelCorrupt, ModelUnsafe, ModelUnsupported
from backend.formats.header import (
    BLOCKS,
    MAX_HEADER,
    MAX_KEYS,
    MAX_METADATA,
    MAX_NAME,
    MAX_RANK,
    Header,
    TensorInfo,
)

MAGIC = b"GGUF"
MAX_FIELDS = 10_000
MAX_LIST = 1_000_000  # entries of a list of texts: a tokenizer's vocabulary
ALIGNMENTS = tuple(2**n for n in range(3, 17))
DEFAULT_ALIGNMENT = 32
VERSIONS = (2, 3)

_SCALARS: Mapping[int, str] = {
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d",
}  # fmt: skip
_WHOLE = frozenset({0, 1, 2, 3, 4, 5, 10, 11})
_TEXT, _LIST = 8, 9

#: Number formats by their id in the file.
_DTYPES: Mapping[int, str] = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 10: "Q2_K", 11: "Q3_K", 12: "Q4_K",
    13: "Q5_K", 14: "Q6_K", 20: "IQ4_NL", 23: "IQ4_XS", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64",
    30: "BF16",
}  # fmt: skip
#: Those that are known by name and not read.
_UNREAD: Mapping[int, str] = {
    9: "Q8_1", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 21: "IQ3_S", 22: "IQ2_S",
    29: "IQ1_M", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4", 40: "NVFP4",
}  # fmt: skip

_SHAPES = "comfy.gguf.orig_shape."  # the shape before a convolution was laid out in rows of 256
_T5_ARCHITECTURES = frozenset({"t5", "t5encoder"})
#: llama.cpp's names of a T5 encoder -> the published ones.
_T5_NAMES: Sequence[tuple[str, str]] = (
    (r"token_embd\.weight", r"shared.weight"),
    (r"enc\.output_norm\.weight", r"encoder.final_layer_norm.weight"),
    (r"enc\.blk\.(\d+)\.attn_norm\.weight", r"encoder.block.\1.layer.0.layer_norm.weight"),
    (r"enc\.blk\.(\d+)\.attn_([qkvo])\.weight", r"encoder.block.\1.layer.0.SelfAttention.\2.weight"),
    (
        r"enc\.blk\.(\d+)\.attn_rel_b\.weight",
        r"encoder.block.\1.layer.0.SelfAttention.relative_attention_bias.weight",
    ),
    (r"enc\.blk\.(\d+)\.ffn_norm\.weight", r"encoder.block.\1.layer.1.layer_norm.weight"),
    (r"enc\.blk\.(\d+)\.ffn_gate\.weight", r"encoder.block.\1.layer.1.DenseReluDense.wi_0.weight"),
    (r"enc\.blk\.(\d+)\.ffn_up\.weight", r"encoder.block.\1.layer.1.DenseReluDense.wi_1.weight"),
    (r"enc\.blk\.(\d+)\.ffn_down\.weight", r"encoder.block.\1.layer.1.DenseReluDense.wo.weight"),
)

_AGAIN = "Download it again from the model's page."

Value = str | int | float | tuple[int, ...]


def read_gguf(file: BinaryIO, path: Path, size: int) -> Header:
    """The header of an open GGUF file of ``size`` bytes, read from its first byte.

    Raises:
        ModelCorrupt: for a cut file, or a header that contradicts itself or the file's size.
        ModelUnsafe: for a header made to exhaust the machine.
        ModelUnsupported: for another version or byte order, or a number format that is not known.
    """
    reader = _Reader(file, path.name, size)
    tensor_count, field_count = _start(reader)
    if tensor_count > MAX_KEYS or field_count > MAX_FIELDS:
        raise ModelUnsafe(
            f"{path.name} announces {tensor_count:,} tensors and {field_count:,} fields; {MAX_KEYS:,} and "
            f"{MAX_FIELDS:,} are the most that are read.",
            "No model that is known has so many.",
        )
    if not tensor_count:
        raise ModelCorrupt(f"{path.name} holds no tensors.", _AGAIN)
    fields: dict[str, Value] = {}
    for _ in range(field_count):
        key = reader.text(MAX_NAME)
        if key in fields:
            raise ModelCorrupt(f"The header of {path.name} names the field {key!r} twice.", _AGAIN)
        fields[key] = reader.value(keep_list=key.startswith(_SHAPES))
    tensors = _tensors(reader, tensor_count, fields)
    metadata = {key: value for key, value in fields.items() if isinstance(value, str)}
    return Header(path, MappingProxyType(tensors), MappingProxyType(metadata), size, "gguf")


class _Reader:
    """Takes numbers and texts from the file one after another, and never more than there is."""

    def __init__(self, file: BinaryIO, name: str, size: int) -> None:
        self.name = name
        self.size = size
        self.position = 0
        self._file = file
        self._text_bytes = 0

    def take(self, count: int) -> bytes:
        """So many bytes."""
        self._advance(count)
        data = self._file.read(count)
        if len(data) != count:
            raise self._cut()
        return data

    def skip(self, count: int) -> None:
        """Leave so many bytes out."""
        self._advance(count)
        self._file.seek(count, 1)

    def number(self, code: str) -> int:
        """One little-endian number of a ``struct`` code."""
        return struct.unpack("<" + code, self.take(struct.calcsize(code)))[0]

    def text(self, limit: int) -> str:
        """One text of at most ``limit`` bytes."""
        length = self.number("Q")
        if length > limit:
            raise ModelUnsafe(f"The header of {self.name} has a text of {length:,} bytes.", _AGAIN)
        try:
            return self.take(length).decode("utf-8")
        except UnicodeDecodeError:
            raise ModelCorrupt(f"The header of {self.name} is not readable text.", _AGAIN) from None

    def value(self, *, keep_list: bool) -> Value:
        """One field; a list is passed over unless it is wanted and short (a tensor's shape)."""
        kind = self.number("I")
        if kind == _TEXT:
            text = self.text(MAX_METADATA)
            self._text_bytes += len(text)
            if self._text_bytes > MAX_METADATA:
                raise ModelUnsafe(f"{self.name} has more than {MAX_METADATA:,} bytes of metadata.")
            return text
        if kind == _LIST:
            return self._list(keep=keep_list)
        if kind not in _SCALARS:
            raise self._unknown_kind(kind)
        return self.number(_SCALARS[kind])

    def _list(self, *, keep: bool) -> tuple[int, ...]:
        kind, count = self.number("I"), self.number("Q")
        if kind == _TEXT:
            if count > MAX_LIST:
                raise ModelUnsafe(f"The header of {self.name} has a list of {count:,} texts.", _AGAIN)
            for _ in range(count):
                self.skip(self.number("Q"))
            return ()
        if kind not in _SCALARS:
            raise self._unknown_kind(kind)
        if keep and count <= MAX_RANK and kind in _WHOLE:
            return tuple(self.number(_SCALARS[kind]) for _ in range(count))
        self.skip(count * struct.calcsize(_SCALARS[kind]))
        return ()

    def _advance(self, count: int) -> None:
        self.position += count
        if self.position > self.size:
            raise self._cut()
        if self.position > MAX_HEADER:
            raise ModelUnsafe(
                f"The header of {self.name} is longer than {MAX_HEADER:,} bytes, the most that is read.", _AGAIN
            )

    def _cut(self) -> ModelCorrupt:
        return ModelCorrupt(f"{self.name} is cut: it ends inside its header.", _AGAIN)

    def _unknown_kind(self, kind: int) -> ModelCorrupt:
        return ModelCorrupt(f"The header of {self.name} has a field of a kind {kind} that is not known.", _AGAIN)


def _start(reader: _Reader) -> tuple[int, int]:
    """Numbers of tensors and of fields."""
    reader.take(len(MAGIC))
    version = reader.number("I")
    if version not in VERSIONS:
        raise ModelUnsupported(
            f"{reader.name} is a GGUF file of version {version}; {' and '.join(map(str, VERSIONS))} are read "
            "(in little-endian order).",
            "Use another file of this model.",
        )
    return reader.number("Q"), reader.number("Q")


def _tensors(reader: _Reader, count: int, fields: Mapping[str, Value]) -> dict[str, TensorInfo]:
    """The tensors by their published names; every one inside the file, none over another."""
    name = reader.name
    alignment = fields.get("general.alignment", DEFAULT_ALIGNMENT)
    if alignment not in ALIGNMENTS or not isinstance(alignment, int):
        raise ModelCorrupt(f"{name} has an alignment of {alignment!r}, which is not valid.", _AGAIN)
    found: dict[str, tuple[str, tuple[int, ...], int]] = {}
    for _ in range(count):
        key, entry = _entry(reader, alignment)
        if key in found:
            raise ModelCorrupt(f"The header of {name} names {key!r} twice.", _AGAIN)
        found[key] = entry
    data_start = math.ceil(reader.position / alignment) * alignment
    is_t5 = fields.get("general.architecture") in _T5_ARCHITECTURES
    tensors: dict[str, TensorInfo] = {}
    for key, (dtype, shape, offset) in found.items():
        info = TensorInfo(dtype, _former_shape(key, shape, fields, name), data_start + offset)
        tensors[_published(key) if is_t5 else key] = info
    if len(tensors) != len(found):
        raise ModelCorrupt(f"The header of {name} names a tensor twice, by its own and by llama.cpp's name.", _AGAIN)
    _check_spans(tensors, data_start, alignment, reader)
    return tensors


def _entry(reader: _Reader, alignment: int) -> tuple[str, tuple[str, tuple[int, ...], int]]:
    """One tensor's name; its number format, shape and place, checked by themselves."""
    name, key = reader.name, reader.text(MAX_NAME)
    rank = reader.number("I")
    if rank > MAX_RANK:
        raise ModelCorrupt(f"{key!r} in {name} has no valid shape (at most {MAX_RANK} sizes).", _AGAIN)
    shape = tuple(reversed([reader.number("Q") for _ in range(rank)]))  # stored innermost first
    if any(not 0 < side < 2**62 for side in shape) or math.prod(shape) >= 2**62:
        raise ModelCorrupt(f"{key!r} in {name} has no valid shape.", _AGAIN)
    kind, offset = reader.number("I"), reader.number("Q")
    if kind not in _DTYPES:
        raise ModelUnsupported(
            f"{key!r} in {name} is stored as {_UNREAD.get(kind, f'type {kind}')}, which is not known.",
            f"Known: {', '.join(_DTYPES.values())}.",
        )
    dtype = _DTYPES[kind]
    values = BLOCKS[dtype][0] if dtype in BLOCKS else 1
    if values > 1 and (not shape or shape[-1] % values):
        raise ModelCorrupt(f"{key!r} in {name} has rows that are no whole blocks of {values}.", _AGAIN)
    if offset % alignment:
        raise ModelCorrupt(f"{key!r} in {name} is not where tensors may begin.", _AGAIN)
    return key, (dtype, shape, offset)


def _former_shape(key: str, shape: tuple[int, ...], fields: Mapping[str, Value], name: str) -> tuple[int, ...]:
    """The shape before the converter laid a tensor out in rows that blocks divide."""
    former = fields.get(_SHAPES + key)
    if former is None:
        return shape
    if not isinstance(former, tuple) or min(former, default=0) < 1 or math.prod(former) != math.prod(shape):
        raise ModelCorrupt(f"The original shape of {key!r} in {name} does not fit its {list(shape)}.", _AGAIN)
    return former


def _published(key: str) -> str:
    for pattern, replacement in _T5_NAMES:
        if match := re.fullmatch(pattern, key):
            return match.expand(replacement)
    return key


def _check_spans(tensors: Mapping[str, TensorInfo], data_start: int, alignment: int, reader: _Reader) -> None:
    """The tensors lie one after another, with no more between them than the alignment needs."""
    expected = data_start
    for key, info in sorted(tensors.items(), key=lambda item: item[1].offset):
        if info.offset < expected:
            raise ModelCorrupt(f"{key!r} in {reader.name} overlaps the one before it.", _AGAIN)
        if info.offset - expected >= alignment:
            raise ModelCorrupt(f"{key!r} in {reader.name} leaves a hole before it.", _AGAIN)
        expected = info.offset + info.bytes
    if expected > reader.size:
        raise ModelCorrupt(
            f"{reader.name} is cut: {expected - reader.size:,} bytes of its weights are missing.",
            "Download it again, or resume the download.",
        )
    if reader.size - expected >= alignment:
        raise ModelCorrupt(f"{reader.name} has {reader.size - expected:,} bytes more than its header says.", _AGAIN)
