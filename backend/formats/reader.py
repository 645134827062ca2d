"""Reads the header of a model file, and nothing else, after checking that it can harm nobody.

The first bytes decide about the container, never the name: GGUF is handed on, everything else is read as safetensors.

The checks come before any library sees the file: safetensors itself accepts headers that exhaust the machine, and
maps a cut file, which kills the process later (THREATS.md section 1).

Source: the format's description, github.com/huggingface/safetensors README ("Format").
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO

from backend.errors import ModelCorrupt, ModelUnsafe, ModelUnsupported, NotFound
from backend.formats import gguf
from backend.formats.header import (
    DTYPE_BYTES,
    MAX_HEADER,
    MAX_KEYS,
    MAX_METADATA,
    MAX_NAME,
    MAX_RANK,
    Header,
    TensorInfo,
)

MAX_AT_ONCE = 2_000_000  # characters; the published headers have up to 300,000
MAX_ENTRY = 4_000  # characters of one tensor's {"dtype", "shape", "data_offsets"}

_FIELDS = frozenset({"dtype", "shape", "data_offsets"})
_MAX_SIZE = 2**62

#: Last parts of names that may be empty tensors: their presence alone says something.
EMPTY_MARKERS = frozenset({"v_pred", "ztsnr", "scaled_fp8", "lora_controlnet"})


@dataclass(frozen=True)
class _Foreign:
    """What the first bytes of a file that is no safetensors file give away."""

    magics: Sequence[bytes]
    error: type[ModelCorrupt | ModelUnsafe | ModelUnsupported]
    what: str
    todo: str


_PICKLE_TODO = "Pickles can run code, so they are not loaded. Get the .safetensors version, or: easel convert FILE"
_AGAIN = "Download it again from the model's page."
_FOREIGN: Sequence[_Foreign] = (
    _Foreign(
        (b"<!doctype html", b"<html", b"<head", b"<?xml"), ModelCorrupt,
        "is a web page, not a model: the site sent a page instead of the file (often a log-in page)",
        "Open the model's page in a browser, log in if it asks, and download again.",
    ),
    _Foreign(
        (b"version https://git-lfs",), ModelCorrupt, "is a git-lfs pointer of a few lines, not the model itself",
        "Run git lfs pull in that repository, or download the file from its page.",
    ),
    _Foreign((b"pk\x03\x04",), ModelUnsafe, "is a zip archive, most likely a pickled .ckpt or .pt",
             _PICKLE_TODO),
    _Foreign((b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"), ModelUnsafe, "is a Python pickle",
             _PICKLE_TODO),
    _Foreign((b"\x89png", b"\xff\xd8\xff", b"riff", b"gif8"), ModelCorrupt, "is a picture, not a model",
             "Pictures go into img2img or PNG info."),
    _Foreign((b"{", b"["), ModelCorrupt, "is a JSON text, not a model", _AGAIN),
)  # fmt: skip


def read_header(path: Path) -> Header:
    """Check a model file from outside and read its header.

    Raises:
        NotFound: if there is no such file, or it may not be read.
        ModelUnsafe: for a pickle, a file that is no regular file, or a header made to exhaust the machine.
        ModelUnsupported: for a number format that is not known.
        ModelCorrupt: for a cut download, a web page, or a header that contradicts itself or the file's size.
    """
    path = Path(path)
    try:
        # Non-blocking, so that a FIFO with a model's name cannot hold up the scan.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except FileNotFoundError:
        raise NotFound(f"{path.name} is not there (any more).", "Look at the models folder.") from None
    except (OSError, ValueError) as error:
        raise NotFound(f"{path.name} cannot be opened: {error}.".replace(str(path), path.name)) from None
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise ModelUnsafe(f"{path.name} is not a regular file.", "Move it out of the models folder.")
    with os.fdopen(descriptor, "rb") as file:
        if file.peek(len(gguf.MAGIC)).startswith(gguf.MAGIC):
            return gguf.read_gguf(file, path, status.st_size)
        text, length = _header_text(file, path.name, status.st_size)
    tensors, metadata = _parse(text, path.name, 8 + length, status.st_size)
    return Header(path, MappingProxyType(tensors), MappingProxyType(metadata), status.st_size)


def _header_text(file: BinaryIO, name: str, size: int) -> tuple[str, int]:
    """The JSON text and its length in bytes, after the container itself has been checked."""
    start = file.read(64)
    if not start:
        raise ModelCorrupt(f"{name} is empty (0 bytes).", _AGAIN)
    length = int.from_bytes(start[:8], "little")
    if len(start) < 10 or start[8:9] != b"{":
        _refuse_foreign(start, name)
        raise ModelCorrupt(f"{name} is not a safetensors file: it has no header.", _AGAIN)
    if length > MAX_HEADER:
        _refuse_foreign(start, name)
        raise ModelUnsafe(
            f"{name} announces a header of {length:,} bytes; {MAX_HEADER:,} is the most that is read.", _AGAIN
        )
    if length > size - 8:
        raise ModelCorrupt(
            f"{name} is cut: its header alone has {length:,} bytes, of which {length - (size - 8):,} are missing.",
            _AGAIN,
        )
    file.seek(8)
    raw = file.read(length)
    try:
        return raw.decode("utf-8"), length
    except UnicodeDecodeError:
        raise ModelCorrupt(f"The header of {name} is not readable text.", _AGAIN) from None


def _refuse_foreign(start: bytes, name: str) -> None:
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for foreign in _FOREIGN:
        if text.startswith(tuple(foreign.magics)):
            raise foreign.error(f"{name} {foreign.what}.", foreign.todo)


def _parse(text: str, name: str, data_start: int, file_bytes: int) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    """Tensors and metadata of a header; every size is bounded before it is parsed."""
    if text.count('"data_offsets"') > MAX_KEYS:  # counted, not parsed: half a million entries take seconds
        raise ModelUnsafe(f"{name} has more than {MAX_KEYS:,} tensors.", "No model that is known has so many.")
    tensors: dict[str, TensorInfo] = {}
    metadata: dict[str, str] | None = None
    spans: list[tuple[int, int, str]] = []
    try:
        for key, value in _entries(text, name):
            if key == "__metadata__":
                if metadata is not None:
                    raise ModelCorrupt(f"The header of {name} has two __metadata__ entries.", _AGAIN)
                metadata = _metadata(value, name)
                continue
            if key in tensors:
                raise ModelCorrupt(f"The header of {name} names {key!r} twice.", _AGAIN)
            key.encode()  # refuses lone surrogates
            if len(key) > MAX_NAME:
                raise ModelUnsafe(f"{name} has a tensor with a name of more than {MAX_NAME:,} characters.", _AGAIN)
            tensors[key], begin, end = _tensor(key, value, name, data_start)
            spans.append((begin, end, key))
    except (ValueError, RecursionError) as error:  # json's errors are ValueErrors; so are those of surrogates
        reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)[:100]  # its place is the window's
        raise ModelCorrupt(f"The header of {name} is not valid: {reason}.", _AGAIN) from None
    if not tensors:
        raise ModelCorrupt(f"{name} holds no tensors.", _AGAIN)
    _check_spans(spans, name, file_bytes - data_start)
    return tensors, metadata or {}


def _entries(text: str, name: str) -> Iterator[tuple[str, Any]]:
    """The pairs of the outermost object.

    A header of an ordinary length is parsed at once, three times as fast. A longer one, or one that is not valid, is
    parsed pair by pair, so that no part can grow beyond its bound and the trouble is found where it lies.
    """
    if len(text) <= MAX_AT_ONCE:
        try:
            whole = _DECODER.decode(text)
        except (ValueError, RecursionError):
            pass
        else:
            yield from whole.items()
            return
    position = _skip_space(text, 1)  # the first character is known to be {
    if text[position : position + 1] == "}":
        return
    while True:
        if text[position : position + 1] != '"':
            raise ValueError(f"a name was expected at character {position}")
        key, position = _value(text, position, MAX_NAME, name)
        if text[position : position + 1] != ":":
            raise ValueError(f"a colon was expected at character {position}")
        position = _skip_space(text, position + 1)
        limit = MAX_METADATA if key == "__metadata__" else MAX_ENTRY
        value, position = _value(text, position, limit, name)
        yield key, value
        closing = text[position : position + 1]
        position = _skip_space(text, position + 1)
        if closing == "}":
            if position != len(text):
                raise ValueError("there is text after its end")
            return
        if closing != ",":
            raise ValueError(f"a comma was expected at character {position}")


def _value(text: str, position: int, limit: int, name: str) -> tuple[Any, int]:
    """The JSON value that begins at ``position``, and where the next sign stands."""
    window = text[position : position + limit]
    try:
        value, used = _DECODER.raw_decode(window)
    except json.JSONDecodeError:
        if len(window) == limit and (limit == MAX_METADATA or window.count('"') < 2 or "}" not in window):
            raise ModelUnsafe(f"The header of {name} has an entry of more than {limit:,} characters.", _AGAIN) from None
        raise
    return value, _skip_space(text, position + used)


def _skip_space(text: str, position: int) -> int:
    while position < len(text) and text[position] in " \t\r\n":
        position += 1
    return position


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("an entry names something twice")
    return result


_DECODER = json.JSONDecoder(object_pairs_hook=_no_duplicates)


def _metadata(value: object, name: str) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise ModelCorrupt(f"The metadata of {name} is not a table of texts.", _AGAIN)
    if sum(len(key.encode()) + len(text.encode()) for key, text in value.items()) > MAX_METADATA:
        raise ModelUnsafe(f"{name} has more than {MAX_METADATA:,} bytes of metadata.")
    return value


def _tensor(key: str, value: object, name: str, data_start: int) -> tuple[TensorInfo, int, int]:
    """One entry, checked by itself; its place in the data beside it."""
    if not isinstance(value, dict) or value.keys() != _FIELDS:
        raise ModelCorrupt(f"The header of {name} describes {key!r} wrongly.", _AGAIN)
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        raise ModelUnsupported(
            f"{key!r} in {name} is stored as {str(dtype)[:40]!r}, which is not known.",
            f"Known: {', '.join(DTYPE_BYTES)}.",
        )
    if not _are_sizes(shape) or len(shape) > MAX_RANK:
        raise ModelCorrupt(f"{key!r} in {name} has no valid shape (at most {MAX_RANK} sizes).", _AGAIN)
    if not _are_sizes(offsets) or len(offsets) != 2:
        raise ModelCorrupt(f"{key!r} in {name} has no valid place in the file.", _AGAIN)
    if 0 in shape and not (shape == [0] and key.rpartition(".")[2] in EMPTY_MARKERS):
        raise ModelCorrupt(f"{key!r} in {name} is empty (shape {shape}).", _AGAIN)
    begin, end = offsets
    info = TensorInfo(dtype, tuple(shape), data_start + begin)
    if end - begin != info.bytes:
        raise ModelCorrupt(
            f"{key!r} in {name} should have {info.bytes:,} bytes by its shape but has {end - begin:,}.", _AGAIN
        )
    return info, begin, end


def _are_sizes(value: object) -> bool:
    """A list of whole numbers from 0 to 2^62 (``True`` is none)."""
    if not isinstance(value, list):
        return False
    for n in value:  # noqa: SIM110 - the loop is twice as fast as all(), and this is the innermost one
        if type(n) is not int or not 0 <= n < _MAX_SIZE:
            return False
    return True


def _check_spans(spans: list[tuple[int, int, str]], name: str, data_bytes: int) -> None:
    """The tensors lie one after another from the first byte to the last."""
    expected = 0
    for begin, end, key in sorted(spans):
        if begin != expected:
            trouble = "overlaps the one before it" if begin < expected else "leaves a hole before it"
            raise ModelCorrupt(f"{key!r} in {name} {trouble}.", _AGAIN)
        expected = end
    if expected > data_bytes:
        raise ModelCorrupt(
            f"{name} is cut: {expected - data_bytes:,} of its {expected:,} bytes of weights are missing.",
            "Download it again, or resume the download.",
        )
    if expected < data_bytes:
        raise ModelCorrupt(f"{name} has {data_bytes - expected:,} bytes more than its header says.", _AGAIN)
