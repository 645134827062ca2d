"""The gate: colours are compared, not only that something came back."""

from __future__ import annotations

import hashlib
import io
import random
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from backend.errors import BadRequest, NotFound
from backend.records.images import MAX_BYTES, Inputs, read_image

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def corners(size=(48, 32)) -> Image.Image:
    """Red, green / blue, white: a picture whose orientation can be seen."""
    image = Image.new("RGB", size, RED)
    half = (size[0] // 2, size[1] // 2)
    image.paste(GREEN, (half[0], 0, *size))
    image.paste(BLUE, (0, half[1], *size))
    image.paste(WHITE, (*half, *size))
    return image


def near(pixel, expected, tolerance=3) -> bool:
    return all(abs(a - b) <= tolerance for a, b in zip(pixel, expected, strict=True))


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def raw_png(width: int, height: int, depth: int, colour: int, rows: bytes, extra: bytes = b"") -> bytes:
    head = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + extra + png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("kind", "options"),
    [("PNG", {}), ("WEBP", {"lossless": True}), ("JPEG", {"quality": 100, "subsampling": 0})],
)
def test_each_accepted_format_keeps_its_colours(kind, options):
    picture = read_image(encoded(corners(), kind, **options))
    assert picture.notes == ()
    assert picture.image.mode == "RGB"
    for at, colour in [((8, 8), RED), ((40, 8), GREEN), ((8, 24), BLUE), ((40, 24), WHITE)]:
        assert near(picture.image.getpixel(at), colour)


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "ICO", "PPM"])
def test_other_formats_are_refused(kind):
    with pytest.raises(BadRequest, match="PNG, JPEG or WebP"):
        read_image(encoded(corners(), kind))


@pytest.mark.parametrize(
    "data", [b"", b"hello", b"<svg/>", b"%PDF-1.4", b"http://localhost/x.png", b"RIFF\0\0\0\0WEBP"]
)
def test_what_is_no_picture_is_refused(data):
    with pytest.raises(BadRequest, match="cannot be read"):
        read_image(data)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(orientation):
    undo = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[
        orientation
    ]  # Pillow's transpose that makes the turned one
    source = corners()
    inverse = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
    turned = source if undo is None else source.transpose(inverse[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = read_image(encoded(turned, exif=exif))
    assert picture.image.size == source.size
    assert picture.image.tobytes() == source.tobytes()


def mask_of(folder, data):
    inputs = Inputs(folder)
    return inputs.load_mask(inputs.store(data).sha256)


def test_16_bit_grey_is_scaled_not_clipped(tmp_path):
    values = np.array([[0, 257, 32896, 65535]], dtype=">u2")
    data = raw_png(4, 1, 16, 0, b"\0" + values.tobytes())
    assert [p[0] for p in np.asarray(read_image(data).image)[0]] == [0, 1, 128, 255]
    assert list(np.asarray(mask_of(tmp_path, data))[0]) == [0, 1, 128, 255]


def test_16_bit_grey_with_a_transparent_value_lies_on_white(tmp_path):
    values = np.array([[0, 1000, 65535]], dtype=">u2")
    data = raw_png(3, 1, 16, 0, b"\0" + values.tobytes(), png_chunk(b"tRNS", struct.pack(">H", 1000)))
    assert [p[0] for p in np.asarray(read_image(data).image)[0]] == [0, 255, 255]
    assert list(np.asarray(mask_of(tmp_path, data))[0]) == [255, 0, 255]


@pytest.mark.parametrize(("colour", "channels"), [(2, 3), (6, 4), (4, 2)])
def test_16_bit_colour_is_scaled(colour, channels):
    values = np.full((1, 2, channels), 32896, dtype=">u2")
    values[..., -1] = 65535 if channels != 3 else 32896
    pixel = read_image(raw_png(2, 1, 16, colour, b"\0" + values.tobytes())).image.getpixel((0, 0))
    assert near(pixel, (128, 128, 128), 1)


def test_cmyk_becomes_the_colour_it_shows():
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    assert near(read_image(encoded(image, "JPEG", quality=95)).image.getpixel((8, 8)), RED, 6)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_every_png_mode_keeps_white_white_and_black_black(mode):
    source = Image.new("RGB", (8, 8), WHITE)
    source.paste((0, 0, 0), (0, 0, 4, 8))
    image = read_image(encoded(source.convert(mode))).image
    assert (image.mode, image.getpixel((1, 1)), image.getpixel((6, 6))) == ("RGB", (0, 0, 0), WHITE)


def test_palette_with_transparency_lies_on_white():
    image = Image.new("P", (4, 4), 0)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((2, 2), 1)
    picture = read_image(encoded(image, transparency=0)).image
    assert (picture.getpixel((0, 0)), picture.getpixel((2, 2))) == (WHITE, BLUE)


def test_alpha_lies_on_white():
    image = Image.new("RGBA", (4, 4), (255, 0, 0, 128))
    image.putpixel((0, 0), (0, 0, 0, 0))
    picture = read_image(encoded(image)).image
    assert picture.getpixel((0, 0)) == WHITE
    assert near(picture.getpixel((2, 2)), (255, 127, 127), 1)


def test_animated_pictures_give_their_first_frame_with_a_note():
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, BLUE)]
    for kind, options in [("PNG", {}), ("WEBP", {"lossless": True})]:
        picture = read_image(encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=50, **options))
        assert picture.image.getpixel((4, 4)) == RED
        assert "first frame" in picture.notes[0]


def wide_gamut_profile() -> bytes:
    """The sRGB profile with its red and green primaries exchanged: a change nobody can overlook."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    for i in range(struct.unpack(">I", data[128:132])[0]):
        at = 132 + 12 * i
        if data[at : at + 4] in (b"rXYZ", b"gXYZ"):
            data[at : at + 1] = b"g" if data[at : at + 1] == b"r" else b"r"
        if data[at : at + 4] == b"desc":
            offset, size = struct.unpack(">II", data[at + 4 : at + 12])
            data[offset : offset + size] = bytes(data[offset : offset + size]).replace(b"\0s\0R\0G\0B", b"\0S\0w\0a\0p")
    return bytes(data)


def test_an_icc_profile_is_applied():
    picture = read_image(encoded(Image.new("RGB", (4, 4), RED), icc_profile=wide_gamut_profile()))
    assert near(picture.image.getpixel((0, 0)), GREEN)
    assert picture.notes == ()


def test_an_icc_profile_leaves_alpha_alone():
    image = Image.new("RGBA", (4, 4), (255, 0, 0, 255))
    image.putpixel((0, 0), (255, 0, 0, 0))
    data = encoded(image, icc_profile=wide_gamut_profile())
    assert near(read_image(data).image.getpixel((2, 2)), GREEN)
    assert read_image(data).image.getpixel((0, 0)) == WHITE


def test_an_srgb_profile_changes_no_value():
    image = Image.effect_noise((32, 32), 90).convert("RGB")
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert read_image(encoded(image, icc_profile=profile)).image.tobytes() == image.tobytes()


def test_a_broken_profile_is_told_and_the_picture_used():
    picture = read_image(encoded(Image.new("RGB", (4, 4), RED), icc_profile=b"nonsense" * 40))
    assert picture.image.getpixel((0, 0)) == RED
    assert "colour profile" in picture.notes[0]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_cut_file_is_a_sentence(kind):
    data = encoded(Image.effect_noise((64, 64), 90).convert("RGB"), kind)
    for length in [12, 20, 33, len(data) // 3, len(data) // 2, len(data) - 30]:
        with pytest.raises(BadRequest, match="cannot be read"):
            read_image(data[:length])


def test_a_bomb_is_refused_before_it_is_decoded():
    png = raw_png(20_000, 20_000, 1, 0, b"")
    with pytest.raises(BadRequest, match="20000 x 20000 pixels, 400 megapixels"):
        read_image(png)
    head = b"RIFF\x1e\0\0\0WEBPVP8X\x0a\0\0\0" + b"\0" * 4 + (16382).to_bytes(3, "little") * 2
    with pytest.raises(BadRequest, match="16383 x 16383"):
        read_image(head)
    jpeg = bytearray(encoded(Image.new("L", (8, 8)), "JPEG"))
    at = jpeg.index(b"\xff\xc0")
    jpeg[at + 5 : at + 9] = struct.pack(">HH", 60_000, 60_000)
    with pytest.raises(BadRequest, match="60000 x 60000"):
        read_image(bytes(jpeg))


@pytest.mark.parametrize("lossless", [True, False])
def test_webp_sizes_are_read_from_the_header(lossless):
    assert read_image(encoded(Image.new("RGB", (37, 21)), "WEBP", lossless=lossless)).image.size == (37, 21)
    assert read_image(encoded(Image.new("RGBA", (37, 21)), "WEBP", lossless=lossless)).image.size == (37, 21)


def test_too_many_bytes_are_refused():
    with pytest.raises(BadRequest, match="33 MiB"):
        read_image(b"\x89PNG\r\n\x1a\n" + b"\0" * (MAX_BYTES + 2**20))


def test_odd_shapes_pass():
    for size in [(1, 1), (1, 10_000), (10_000, 1)]:
        assert read_image(encoded(Image.new("RGB", size, RED))).image.size == size


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # Pillow's own words on damaged EXIF
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_damaged_bytes_are_a_picture_or_a_sentence(kind):
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(corners(), kind, exif=exif, icc_profile=wide_gamut_profile())
    dice = random.Random(7)
    for _ in range(120):
        damaged = bytearray(data)
        for _ in range(dice.randint(1, 4)):
            damaged[dice.randrange(len(data))] = dice.randrange(256)
        try:
            assert read_image(bytes(damaged)).image.mode == "RGB"
        except BadRequest as error:
            assert 10 < len(str(error)) < 300


def test_a_mask_is_its_transparency_or_else_its_brightness(tmp_path):
    painted = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    painted.putpixel((1, 1), (0, 0, 0, 255))
    mask = mask_of(tmp_path, encoded(painted))
    assert (mask.mode, mask.getpixel((0, 0)), mask.getpixel((1, 1))) == ("L", 0, 255)
    opaque = Image.new("RGBA", (4, 4), (0, 0, 0, 255))
    opaque.putpixel((1, 1), (255, 255, 255, 255))
    mask = mask_of(tmp_path, encoded(opaque))
    assert (mask.getpixel((0, 0)), mask.getpixel((1, 1))) == (0, 255)


def test_inputs_are_stored_once_by_their_hash(tmp_path):
    inputs = Inputs(tmp_path / "inputs")
    image = corners()
    first = inputs.store(encoded(image))
    again = inputs.store(encoded(image, "WEBP", lossless=True))
    assert first == again
    assert (first.width, first.height) == inputs.size(first.sha256) == image.size
    path = inputs.path(first.sha256)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == first.sha256 == path.stem
    assert len(list((tmp_path / "inputs").iterdir())) == 1
    assert inputs.load(first.sha256).tobytes() == image.tobytes()


def test_a_stored_input_serves_as_picture_and_as_mask(tmp_path):
    inputs = Inputs(tmp_path)
    image = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    image.putpixel((1, 1), (10, 20, 30, 255))
    stored = inputs.store(encoded(image))
    assert "white" in stored.notes[-1]
    assert inputs.load(stored.sha256).getpixel((1, 1)) == (10, 20, 30)
    assert inputs.load(stored.sha256).getpixel((0, 0)) == WHITE
    assert inputs.load_mask(stored.sha256).getpixel((1, 1)) == 255
    assert inputs.load_mask(stored.sha256).getpixel((0, 0)) == 0


def test_a_stored_input_holds_nothing_of_the_sender(tmp_path):
    exif = Image.Exif()
    exif[0x010E] = "secret place"
    stored = Inputs(tmp_path).store(encoded(corners(), exif=exif))
    assert b"secret" not in Inputs(tmp_path).path(stored.sha256).read_bytes()


@pytest.mark.parametrize("name", ["0" * 64, "../../etc/passwd", "", "A" * 64, "0" * 63 + "\n", "\0" * 64, "x" * 5000])
def test_unknown_inputs_are_not_found(tmp_path, name):
    with pytest.raises(NotFound):
        Inputs(tmp_path).load(name)


def test_a_changed_input_is_told(tmp_path):
    inputs = Inputs(tmp_path)
    name = inputs.store(encoded(corners())).sha256
    inputs.path(name).write_bytes(encoded(Image.new("RGB", (8, 8))))
    with pytest.raises(NotFound, match="changed on disk"):
        inputs.load(name)
