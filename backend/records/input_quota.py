"""Which stored input pictures may go: those that no job and no saved picture names, once they are old or too many.

Nothing is removed here; ``webui.studio`` does it, where jobs are accepted.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from backend.records.containers import JPEG_MAGIC, PNG_MAGIC

GRACE = 3600.0  # seconds: a picture that was just sent has no job yet
DAY = 86_400.0
NAMED = re.compile(rb"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")
_PICTURES = frozenset({".png", ".jpg", ".jpeg", ".webp"})


@dataclass(frozen=True)
class InputFile:
    """A file of ``inputs/``; ``sent``: when its bytes came last, in seconds since 1970."""

    path: Path
    bytes: int
    sent: float

    @property
    def sha256(self) -> str:
        """Its name."""
        return self.path.stem


def input_files(folder: Path) -> list[InputFile]:
    """What is stored, the oldest first."""
    files: list[InputFile] = []
    for path in folder.glob("*.png"):
        if NAMED.fullmatch(path.stem.encode("utf-8", "replace")):
            try:
                status = path.stat()
            except OSError:
                continue  # gone since
            files.append(InputFile(path, status.st_size, status.st_mtime))
    return sorted(files, key=lambda file: file.sent)


def removable(
    files: Sequence[InputFile], *, needed: Collection[str], days: int, max_bytes: float, now: float
) -> list[InputFile]:
    """The files that should go, the oldest first.

    Args:
        files: as ``input_files`` gives them.
        needed: sha256 of those that stay whatever their age.
        days: after which a file goes; 0: never.
        max_bytes: beyond which the oldest go; 0: no limit.
    """
    free = [file for file in files if file.sha256 not in needed and now - file.sent > GRACE]
    total = sum(file.bytes for file in files)
    doomed: list[InputFile] = []
    for file in free:
        if (days and now - file.sent > days * DAY) or (max_bytes and total > max_bytes):
            doomed.append(file)
            total -= file.bytes
    return doomed


def named_in(text: bytes) -> set[str]:
    """Every sha256 that stands in a text: whatever field of a request names a picture, now or later."""
    return {match.decode() for match in NAMED.findall(text)}


def named_by_pictures(outputs: Path) -> set[str]:
    """Every sha256 that the saved pictures' metadata name; reads no pixels."""
    found: set[str] = set()
    for path in outputs.rglob("*"):
        if path.suffix.lower() in _PICTURES:
            try:
                with path.open("rb") as file:
                    found |= named_in(_metadata(file))
            except OSError:
                continue  # gone since
    return found


def _metadata(file: BinaryIO) -> bytes:
    """The bytes of the chunks that may hold text, of a file of ours or anybody's."""
    start = file.read(12)
    if start.startswith(PNG_MAGIC):
        file.seek(8)
        return b"\0".join(_png_texts(file))
    if start.startswith(JPEG_MAGIC):
        file.seek(2)
        return b"\0".join(_jpeg_segments(file))
    if start[:4] == b"RIFF":
        return b"\0".join(_webp_exif(file))
    return b""


def _png_texts(file: BinaryIO) -> list[bytes]:
    texts: list[bytes] = []
    while len(head := file.read(8)) == 8 and head[4:] not in {b"IDAT", b"IEND"}:
        length = int.from_bytes(head[:4], "big")
        if head[4:] in {b"tEXt", b"iTXt"}:
            texts.append(file.read(length))
            file.seek(4, 1)
        else:
            file.seek(length + 4, 1)
    return texts


def _jpeg_segments(file: BinaryIO) -> list[bytes]:
    segments: list[bytes] = []
    while len(head := file.read(4)) == 4 and head[0] == 0xFF and head[1] != 0xDA:
        length = int.from_bytes(head[2:], "big") - 2
        data = file.read(max(0, length))
        if 0xE0 <= head[1] <= 0xEF:
            segments.append(data)
    # A record longer than a segment goes on in the next one: a name may stand across the border.
    return [*segments, b"".join(segment.removeprefix(b"easel\0") for segment in segments)]


def _webp_exif(file: BinaryIO) -> list[bytes]:
    texts: list[bytes] = []
    while len(head := file.read(8)) == 8:
        length = int.from_bytes(head[4:], "little")
        if head[:4] == b"EXIF":
            texts.append(file.read(length))
            file.seek(length % 2, 1)
        else:
            file.seek(length + length % 2, 1)
    return texts
