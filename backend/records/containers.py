"""Where text lies in picture files: two texts in, two texts out, for PNG, JPEG and WebP alike; pixels stay untouched.

``parameters`` goes where A1111 puts it (PNG text chunk; EXIF UserComment in UTF-16), Easel's own JSON ``document``
beside it: PNG text chunk ``easel``, JPEG segments APP10, WebP EXIF MakerNote. Reading decodes no pixel, so that a
hostile picture costs nothing but its own bytes.

Sources: PNG third edition, 11.3.3; JPEG ITU-T T.81 B.2.4; EXIF 2.32, 4.6.5 (UserComment); RFC 9649.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from backend.request import ImageFormat

PNG_MAGIC, JPEG_MAGIC = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"
PARAMETERS, DOCUMENT = "parameters", "easel"
PNG_LEVEL = 4  # of a 1024 x 1024 picture: a third of the time of level 6 and no more bytes
MAX_TEXT = 8 * 2**20  # bytes of one text after decompression: five prompts of 100,000 characters fit

_EXIF_IFD, _USER_COMMENT, _MAKER_NOTE = 0x8769, 0x9286, 0x927C
_APP10, _SEGMENT_ID, _SEGMENT_BYTES = 0xEA, b"easel\0", 60_000
_MAX_SEGMENT = 65_533
_FAULTS = (OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, RuntimeError, struct.error, zlib.error)


@dataclass(frozen=True)
class Encoded:
    """A picture as file bytes; ``has_parameters`` is False where JPEG's EXIF (64 KiB) had no room for them."""

    data: bytes
    has_parameters: bool


def encode(image: Image.Image, kind: ImageFormat, *, parameters: str, document: str, quality: int) -> Encoded:
    """An RGB picture with its two texts as the bytes of a file; the same input gives the same bytes.

    Args:
        document: ASCII.
        quality: 1..100 for JPEG and WebP; 100 makes WebP lossless.
    """
    buffer = io.BytesIO()
    if kind == "png":
        texts = PngInfo()
        texts.add_text(PARAMETERS, parameters)
        texts.add_text(DOCUMENT, document)
        image.save(buffer, "PNG", pnginfo=texts, compress_level=PNG_LEVEL)
        return Encoded(buffer.getvalue(), True)
    if kind == "webp":
        exif = _exif(parameters, document)
        image.save(buffer, "WEBP", quality=quality, lossless=quality == 100, exif=exif)
        return Encoded(buffer.getvalue(), True)
    exif = _exif(parameters, None)
    fits = len(exif) <= _MAX_SEGMENT
    # Full colour resolution at high quality: halved chroma shows on red and blue edges.
    image.save(buffer, "JPEG", quality=quality, subsampling=0 if quality >= 90 else 2, exif=exif if fits else b"")
    return Encoded(_with_segments(buffer.getvalue(), document.encode()), fits)


def texts_of(data: bytes) -> Mapping[str, str]:
    """The texts in a picture file by key; of a file that is cut, hostile or no picture, what can be read of it."""
    found: dict[str, str] = {}
    try:
        for key, text in _walk(data):
            found.setdefault(key, text)
    except _FAULTS:
        pass  # what came before the damage is good all the same
    return found


def _walk(data: bytes) -> Iterator[tuple[str, str]]:
    if data.startswith(PNG_MAGIC):
        yield from _png_texts(data)
    elif data.startswith(JPEG_MAGIC):
        yield from _jpeg_texts(data)
    elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        yield from _webp_texts(data)


def _png_texts(data: bytes) -> Iterator[tuple[str, str]]:
    at = len(PNG_MAGIC)
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        body = data[at + 8 : at + 8 + length]
        at += 12 + length
        if kind not in {b"tEXt", b"zTXt", b"iTXt"} or b"\0" not in body or len(body) > MAX_TEXT:
            continue
        key, rest = body.split(b"\0", 1)
        name = key.decode("latin-1")
        if kind == b"tEXt":
            yield name, rest.decode("latin-1")
        elif kind == b"zTXt":
            yield name, _inflate(rest[1:]).decode("latin-1")
        else:
            packed, rest = rest[:1], rest[2:]
            _language, _translated, text = rest.split(b"\0", 2)
            yield name, (_inflate(text) if packed == b"\1" else text).decode("utf-8", "replace")


def _inflate(packed: bytes) -> bytes:
    return zlib.decompressobj().decompress(packed, MAX_TEXT)


def _jpeg_texts(data: bytes) -> Iterator[tuple[str, str]]:
    document: list[bytes] = []
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == 0xDA or length < 2:  # start of scan: no more segments
            break
        body = data[at + 4 : at + 2 + length]
        at += 2 + length
        if marker == 0xE1 and body.startswith(b"Exif\0\0"):
            yield from _exif_texts(body)
        elif marker == _APP10 and body.startswith(_SEGMENT_ID):
            document.append(body[len(_SEGMENT_ID) :])
    if document:
        yield DOCUMENT, b"".join(document).decode("utf-8", "replace")


def _webp_texts(data: bytes) -> Iterator[tuple[str, str]]:
    at = 12
    while at + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, at)
        if kind == b"EXIF":
            yield from _exif_texts(data[at + 8 : at + 8 + length])
        at += 8 + length + length % 2


def _exif_texts(block: bytes) -> Iterator[tuple[str, str]]:
    exif = Image.Exif()
    exif.load(block)
    inner = exif.get_ifd(_EXIF_IFD)
    comment, note = inner.get(_USER_COMMENT), inner.get(_MAKER_NOTE)
    if isinstance(comment, bytes):
        yield PARAMETERS, _user_comment(comment)
    elif isinstance(comment, str):
        yield PARAMETERS, comment
    if isinstance(note, bytes) and note.lstrip().startswith(b"{"):
        yield DOCUMENT, note.decode("utf-8", "replace")


def _user_comment(raw: bytes) -> str:
    code, text = raw[:8], raw[8:]
    if code == b"UNICODE\0":
        # EXIF does not fix the byte order; A1111 writes big-endian. Latin letters show it by where their zeros are.
        little = text[1::2].count(0) > text[0::2].count(0)
        return text.decode("utf-16-le" if little else "utf-16-be", "replace")
    return (text if code in {b"ASCII\0\0\0", b"\0" * 8} else raw).decode("utf-8", "replace").rstrip("\0")


def _exif(parameters: str, document: str | None) -> bytes:
    exif = Image.Exif()
    inner = exif.get_ifd(_EXIF_IFD)
    inner[_USER_COMMENT] = b"UNICODE\0" + parameters.encode("utf-16-be")
    if document is not None:
        inner[_MAKER_NOTE] = document.encode()
    return exif.tobytes()


def _with_segments(jpeg: bytes, document: bytes) -> bytes:
    """The document in APP10 segments, after the ones that must come first (JFIF, EXIF)."""
    at = 2
    while jpeg[at + 1] in {0xE0, 0xE1}:
        at += 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
    parts = [document[i : i + _SEGMENT_BYTES] for i in range(0, len(document), _SEGMENT_BYTES)]
    segments = [
        struct.pack(">BBH", 0xFF, _APP10, 2 + len(_SEGMENT_ID) + len(part)) + _SEGMENT_ID + part for part in parts
    ]
    return jpeg[:at] + b"".join(segments) + jpeg[at:]
