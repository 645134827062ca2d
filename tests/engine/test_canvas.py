"""Picture geometry: sizes, what is kept, what is filled."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from backend.engine import canvas


def random_image(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_pictures_survive_the_way_to_tensors_and_back() -> None:
    image = random_image(33, 17)
    (again,) = canvas.to_images(canvas.to_tensor(image))
    assert (np.asarray(again) == np.asarray(image)).all()


@pytest.mark.parametrize("mode", ["just resize", "crop and resize", "resize and fill"])
@pytest.mark.parametrize("size", [(64, 64), (40, 90), (1, 10_000)])
def test_every_mode_gives_the_size(mode, size) -> None:
    image = Image.new("RGB", size, (10, 20, 30))
    resized = canvas.resize(image, 64, 48, mode)
    assert resized.size == (64, 48)
    assert (np.asarray(resized) == (10, 20, 30)).all()


def test_resize_and_fill_continues_the_border() -> None:
    image = Image.new("RGB", (10, 20), (255, 0, 0))
    image.paste((0, 0, 255), (5, 0, 10, 20))
    filled = np.asarray(canvas.resize(image, 40, 20, "resize and fill"))
    assert (filled[:, :15] == (255, 0, 0)).all()
    assert (filled[:, 25:] == (0, 0, 255)).all()


def test_fill_changes_only_the_masked_part_and_takes_colours_from_around() -> None:
    image = Image.new("RGB", (64, 64), (200, 40, 40))
    image.paste((0, 255, 0), (24, 24, 40, 40))
    mask = Image.new("L", (64, 64))
    mask.paste(255, (24, 24, 40, 40))
    filled = np.asarray(canvas.fill_masked(image, mask)).astype(int)
    assert (filled[mask_array(mask) == 0] == (200, 40, 40)).all()
    assert np.abs(filled[mask_array(mask) == 255] - (200, 40, 40)).max() <= 8  # eight bits a blur


def mask_array(mask: Image.Image) -> np.ndarray:
    return np.asarray(mask)


@pytest.mark.parametrize("spot", [(0, 0, 5, 5), (90, 40, 100, 60), (0, 0, 100, 60), (50, 30, 51, 31)])
@pytest.mark.parametrize("size", [(64, 64), (128, 64), (64, 128)])
def test_the_masked_box_holds_the_mask_inside_the_picture(spot, size) -> None:
    mask = Image.new("L", (100, 60))
    mask.paste(255, spot)
    left, top, right, bottom = canvas.masked_box(mask, 8, *size)
    assert 0 <= left <= spot[0] and 0 <= top <= spot[1]
    assert spot[2] <= right <= 100 and spot[3] <= bottom <= 60


def test_the_masked_box_takes_the_aspect_ratio_where_there_is_room() -> None:
    mask = Image.new("L", (400, 400))
    mask.paste(255, (200, 200, 220, 220))
    left, top, right, bottom = canvas.masked_box(mask, 10, 128, 64)
    assert (right - left) == 2 * (bottom - top)


def test_only_masked_keeps_the_pictures_own_size() -> None:
    image, mask = random_image(100, 60), Image.new("L", (100, 60))
    mask.paste(255, (10, 10, 20, 20))
    layout = canvas.inpaint_canvas(
        image, mask, width=64, height=64, resize_mode="just resize", blur=0, padding=4, only_masked=True
    )
    assert layout.work.size == (64, 64)
    result = layout.put_back(Image.new("RGB", (64, 64), (1, 2, 3)))
    assert result.size == image.size
    changed = (np.asarray(result) != np.asarray(image)).any(axis=-1)
    assert changed[10:20, 10:20].all() and changed.sum() == 100


def test_a_resized_mask_has_no_ripples() -> None:
    mask = Image.new("L", (100, 100))
    mask.paste(255, (40, 40, 60, 60))
    layout = canvas.inpaint_canvas(
        random_image(100, 100), mask, width=248, height=248, resize_mode="just resize", blur=0, padding=0,
        only_masked=False,
    )  # fmt: skip
    for soft in (layout.paste_mask, layout.work_mask):
        shown = mask_array(soft)
        assert (shown[104:144, 104:144] == 255).all()  # 2.48 pixels a pixel of the mask's, whose edges blend over two
        outside = np.ones(shown.shape, dtype=bool)
        outside[96:152, 96:152] = False
        assert not shown[outside].any()
