"""Resolutions and resize modes: sizes, and that thin lines are not sampled twice."""

from __future__ import annotations

import pytest
import torch

from extensions.controlnet.geometry import at_scale, laid_on, pixel_perfect

MODES = ("just resize", "crop and resize", "resize and fill")


@pytest.mark.parametrize(
    ("picture", "target", "mode", "shorter"),
    [
        ((512, 512), (768, 1024), "just resize", 1024),  # sd-webui-controlnet's own numbers
        ((512, 512), (768, 1024), "crop and resize", 1024),
        ((512, 512), (768, 1024), "resize and fill", 768),
        ((600, 900), (512, 512), "crop and resize", 512),
        ((600, 900), (512, 512), "resize and fill", 341),
    ],
)
def test_pixel_perfect_is_that_of_controlnets_extension(picture, target, mode, shorter):
    assert round(pixel_perfect(*picture, *target, mode) * min(picture)) == shorter


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [(37, 50), (64, 64), (200, 31), (1, 1)])
@pytest.mark.parametrize("target", [(64, 64), (64, 96), (128, 40)])
def test_a_hint_gets_the_pictures_size(mode, size, target):
    hint = laid_on(torch.rand(3, *size), *target, mode)
    assert hint.shape == (3, *target)
    assert 0 <= hint.min() <= hint.max() <= 1


@pytest.mark.parametrize("mode", ["crop and resize", "resize and fill"])
@pytest.mark.parametrize("size", [(83, 129), (129, 128), (25, 249), (160, 120)])
@pytest.mark.parametrize("target", [(128, 128), (192, 256), (304, 208)])
def test_a_pixel_perfect_hint_is_not_sampled_again(mode, size, target):
    """Hints of 0 and 1 stay 0 and 1."""
    scale = pixel_perfect(*size, *target, mode)
    drawn = (at_scale(torch.rand(3, *size, generator=torch.Generator().manual_seed(1)), scale) > 0.5).float()
    hint = laid_on(drawn, *target, mode)
    assert set(hint.unique().tolist()) <= {0.0, 1.0}


def test_crop_keeps_the_middle_and_fill_keeps_everything():
    wide = torch.zeros(1, 32, 64)
    wide[:, :, :4] = 0.25
    wide[:, :, -4:] = 0.75
    wide[:, :, 31:33] = 1
    cropped = laid_on(wide, 32, 32, "crop and resize")
    assert torch.equal(cropped, wide[:, :, 16:48])
    filled = laid_on(wide, 64, 64, "resize and fill")
    assert torch.equal(filled[:, 16:48], wide)
    assert (filled[:, :16] == 0).all()
    assert laid_on(wide, 32, 32, "just resize")[0, 0, 0] == pytest.approx(0.25)


def test_a_huge_picture_is_worked_on_at_a_bounded_size():
    assert at_scale(torch.zeros(1, 10, 40000), 400.0).numel() <= 4096 * 4096 * 1.01
