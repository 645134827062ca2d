"""The image gate: every picture from outside becomes upright 8-bit sRGB here, or is refused with a sentence.

PNG, JPEG and WebP only; size and pixels are checked before anything is decoded. Transparent parts of a picture lie on
white; of a mask, transparency is the mask. PNG's gAMA and cHRM chunks are not applied, embedded ICC profiles are.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageCms, ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from backend.errors import BadRequest, NotFound
from backend.records.files import write_atomically

MAX_BYTES = 32 * 2**20
MAX_PIXELS = 40_000_000
WHITE = (255, 255, 255)

# What Pillow's decoders raise on hostile bytes (fuzzed: tests/records/test_images.py).
_DECODER_FAULTS = (OSError, SyntaxError, ValueError, EOFError, TypeError, KeyError, IndexError, RuntimeError,
                   OverflowError, struct.error, zlib.error)  # fmt: skip
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # EXIF orientation -> what undoes it
_PROFILE_MODES = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK"}  # ICC colour space -> Pillow mode


class Picture(NamedTuple):
    """A picture that passed the gate, and what the user should know of the passage."""

    image: Image.Image
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class StoredInput:
    """A picture in ``inputs/``: requests name it by ``sha256``."""

    sha256: str
    width: int
    height: int
    notes: tuple[str, ...]


def read_image(data: bytes) -> Picture:
    """A picture from outside as RGB, upright, in sRGB.

    Raises:
        BadRequest: no PNG, JPEG or WebP, cut, more than 32 MiB or 40 megapixels.
    """
    image, notes = _read(data)
    return Picture(_on_white(image), notes)


class Inputs:
    """Init images and masks, each stored once as a PNG named by the sha256 of its bytes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def store(self, data: bytes) -> StoredInput:
        """Pass a picture through the gate and keep it; the same picture again is the same file.

        Raises:
            BadRequest: as ``read_image``.
            DiskFull: it could not be written.
        """
        image, notes = _read(data)
        if image.mode == "RGBA":
            notes = (*notes, "Transparent parts lie on white; used as a mask, the transparency counts.")
        buffer = io.BytesIO()
        image.save(buffer, "PNG", compress_level=1)  # level 6 takes seconds at 40 megapixels
        encoded = buffer.getvalue()
        name = hashlib.sha256(encoded).hexdigest()
        path = self._folder / f"{name}.png"
        if path.is_file():
            os.utime(path)  # sent again: it counts as new
        else:
            write_atomically(path, encoded)
        return StoredInput(sha256=name, width=image.width, height=image.height, notes=notes)

    def store_image(self, image: Image.Image) -> str:
        """Keep a picture that an extension made; its sha256.

        Raises:
            BadRequest, DiskFull: as ``store``.
        """
        buffer = io.BytesIO()
        image.save(buffer, "PNG", compress_level=1)
        return self.store(buffer.getvalue()).sha256

    def path(self, sha256: str) -> Path:
        """The file of a stored input; raises ``NotFound``."""
        path = self._folder / f"{sha256}.png"
        if not re.fullmatch("[0-9a-f]{64}", sha256) or not path.is_file():
            raise NotFound(f"The input picture {sha256[:12]!r} is not stored (any more).", "Send it again.")
        return path

    def size(self, sha256: str) -> tuple[int, int]:
        """Width and height without decoding; raises ``NotFound``."""
        with self.path(sha256).open("rb") as file:
            return _opened(PngImageFile, file).size

    def load(self, sha256: str) -> Image.Image:
        """A stored input as RGB; raises ``NotFound``, also when its bytes are not those of its name."""
        return _on_white(self._decoded(sha256))

    def load_mask(self, sha256: str) -> Image.Image:
        """A stored input as a mask, L, 255 is repainted; raises ``NotFound`` as ``load``."""
        return _mask_of(self._decoded(sha256))

    def _decoded(self, sha256: str) -> Image.Image:
        data = self.path(sha256).read_bytes()
        if hashlib.sha256(data).hexdigest() != sha256:
            raise NotFound(f"The input picture {sha256[:12]!r} was changed on disk.", "Delete it and send it again.")
        image = _opened(PngImageFile, io.BytesIO(data))
        image.load()
        return image


def _read(data: bytes) -> Picture:
    """Gate without a choice of background: L, RGB or (only if something is transparent) RGBA."""
    if len(data) > MAX_BYTES:
        raise BadRequest(f"The picture has {len(data) / 2**20:.0f} MiB.", f"At most {MAX_BYTES // 2**20} are accepted.")
    plugin = _plugin(data)
    if plugin is WebPImageFile:
        _check_pixels(*_webp_size(data))  # its decoder reserves the whole canvas on opening
    image = _opened(plugin, io.BytesIO(data))
    _check_pixels(*image.size)
    notes: list[str] = []
    if getattr(image, "is_animated", False):
        notes.append("The picture is animated; its first frame is used.")
    try:
        image.load()
    except _DECODER_FAULTS as error:
        raise _unreadable("it is cut or damaged") from error
    orientation, profile = _orientation(image), image.info.get("icc_profile")
    plain, alpha = _split_alpha(image)
    plain = _in_srgb(plain, profile, notes)
    if alpha is not None:
        plain = plain.convert("RGB")
        plain.putalpha(alpha)
    if orientation in _UPRIGHT:
        plain = plain.transpose(_UPRIGHT[orientation])
    plain.info.clear()  # nothing of the sender's goes into our files
    return Picture(plain, tuple(notes))


def _plugin(data: bytes) -> Callable[[io.BytesIO], ImageFile.ImageFile]:
    # The classes are called directly: Image.open would only warn between Pillow's own pixel limit and its double.
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return PngImageFile
    if data.startswith(b"\xff\xd8\xff"):
        return JpegImageFile
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return WebPImageFile
    raise _unreadable("it is none of these" if data else "the file is empty")


def _opened(plugin: Callable[..., ImageFile.ImageFile], file: object) -> ImageFile.ImageFile:
    try:
        return plugin(file)
    except _DECODER_FAULTS as error:
        raise _unreadable("it is cut or damaged") from error


def _unreadable(why: str) -> BadRequest:
    return BadRequest(f"The picture cannot be read: {why}.", "Send a whole PNG, JPEG or WebP file.")


def _check_pixels(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise BadRequest(
            f"The picture has {width} x {height} pixels, {width * height / 1e6:.0f} megapixels.",
            f"At most {MAX_PIXELS // 1_000_000} megapixels are accepted: make it smaller first.",
        )


def _webp_size(data: bytes) -> tuple[int, int]:
    """Canvas size from the first chunk (RFC 9649, sections 2.5 to 2.7)."""
    kind, body = data[12:16], data[20:30]
    if kind == b"VP8X" and len(body) == 10:
        return 1 + int.from_bytes(body[4:7], "little"), 1 + int.from_bytes(body[7:10], "little")
    if kind == b"VP8 " and body[3:6] == b"\x9d\x01\x2a" and len(body) == 10:
        width, height = struct.unpack("<HH", body[6:10])
        return width & 0x3FFF, height & 0x3FFF
    if kind == b"VP8L" and body[:1] == b"\x2f" and len(body) >= 5:
        bits = int.from_bytes(body[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    raise _unreadable("it is cut or damaged")


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(0x0112, 1))
    except _DECODER_FAULTS:
        return 1  # hostile or broken EXIF: the pixels are whole all the same


def _split_alpha(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """L, RGB or CMYK in 8 bits, and the alpha plane (L) if anything is transparent."""
    if image.mode == "I;16":
        return _from_16_bits(image)
    alpha = None
    if image.has_transparency_data:
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
        image = image.convert("RGB")
        if alpha.getextrema() == (255, 255):
            alpha = None
    elif image.mode == "1":
        image = image.convert("L")
    elif image.mode not in {"L", "RGB", "CMYK"}:  # P, RGBX ...
        image = image.convert("RGB")
    return image, alpha


def _from_16_bits(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    # Pillow's own convert clips at 255: nearly every pixel would be white.
    values = np.asarray(image, dtype=np.uint16)
    grey = Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))
    transparent = image.info.get("transparency")
    if not isinstance(transparent, int) or not (values == transparent).any():
        return grey, None
    return grey, Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8))


def _in_srgb(image: Image.Image, profile: bytes | None, notes: list[str]) -> Image.Image:
    """L or RGB in sRGB; without a (usable) profile the numbers are taken as sRGB."""
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            facts = source.profile
            if not isinstance(facts, ImageCms.core.CmsProfile):
                raise ImageCms.PyCMSError("no profile")
            mode = _PROFILE_MODES.get(facts.xcolor_space)
            if mode == "RGB" and image.mode == "L":
                image = image.convert("RGB")
            if "sRGB" in (facts.profile_description or "") and image.mode == "RGB":
                return image  # as it is: a transform to itself would change values by one
            if mode != image.mode:
                raise ImageCms.PyCMSError("profile of another colour space")
            converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
            if converted is not None:
                return converted
        except (ImageCms.PyCMSError, *_DECODER_FAULTS):
            notes.append("The picture's colour profile cannot be used; its colours are taken as sRGB.")
    return image if image.mode in {"L", "RGB"} else image.convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode != "RGBA":
        return image.convert("RGB")
    ground = Image.new("RGB", image.size, WHITE)
    ground.paste(image, mask=image.getchannel("A"))
    return ground


def _mask_of(image: Image.Image) -> Image.Image:
    return image.getchannel("A") if image.mode == "RGBA" else image.convert("L")
