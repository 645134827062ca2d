"""Preprocessors: against OpenCV where it has the same, laws elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from backend.errors import BadRequest
from extensions.controlnet.preprocessors.canny import CannyParameters, canny
from extensions.controlnet.preprocessors.strokes import (
    BinaryParameters,
    ScribbleParameters,
    SoftEdgeParameters,
    binary,
    otsu,
    scribble,
    soft_edges,
)
from extensions.controlnet.preprocessors.table import PREPROCESSORS
from extensions.controlnet.preprocessors.tones import (
    BlurParameters,
    InpaintParameters,
    TileParameters,
    blurred,
    holed,
    lightness_of,
    tiled,
)

cv2 = pytest.importorskip("cv2")


def photo(height: int = 96, width: int = 120, seed: int = 0) -> Tensor:
    """Soft shapes with some grain, (3, H, W), 8-bit colours."""
    draw = np.random.default_rng(seed)
    small = draw.integers(0, 256, (height // 12, width // 12, 3), dtype=np.uint8)
    pixels = cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST).astype(np.int16)
    pixels = (pixels + draw.integers(-12, 13, pixels.shape)).clip(0, 255)
    return torch.from_numpy(pixels.astype(np.float32) / 255).permute(2, 0, 1)


def pixels_of(picture: Tensor) -> np.ndarray:
    return (picture * 255).round().byte().permute(1, 2, 0).numpy().copy()


def square() -> Tensor:
    picture = torch.zeros(3, 32, 32)
    picture[:, 8:24, 8:24] = 1
    return picture


@pytest.mark.oracle
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("low", "high"), [(100, 200), (30, 300), (1, 1), (400, 1000)])
def test_canny_is_opencvs_to_the_pixel(seed, low, high):
    picture = photo(97, 121, seed) if seed % 2 else torch.rand(3, 40, 33, generator=torch.Generator().manual_seed(seed))
    picture = (picture * 255).round() / 255
    ours = canny(picture, CannyParameters(low=low, high=high))[0].numpy() * 255
    assert np.array_equal(ours, cv2.Canny(pixels_of(picture), low, high))


def test_canny_of_one_grey_is_opencvs(low=50, high=150):
    grey = photo()[:1].expand(3, -1, -1)
    ours = canny(grey, CannyParameters(low=low, high=high))[0].numpy() * 255
    assert np.array_equal(ours, cv2.Canny(pixels_of(grey)[:, :, 0], low, high))


def test_canny_draws_a_squares_outline_and_nothing_else():
    edges = canny(square(), CannyParameters())[0]
    assert edges[15, 15] == edges[2, 2] == 0
    assert edges[7:9, 15].sum() == edges[15, 7:9].sum() == 1
    assert set(edges.unique().tolist()) == {0.0, 1.0}


def test_smoothing_takes_grain_away():
    grain = (torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(1)) * 0.5).clamp(0, 1)
    edges = [canny(grain, CannyParameters(smoothing=sigma)).sum() for sigma in (0.0, 1.0, 3.0)]
    assert edges[0] > edges[1] > edges[2] == 0


def test_a_low_threshold_above_the_high_one_is_refused():
    with pytest.raises(BadRequest, match="low threshold 300 is above the high one 200"):
        canny(square(), CannyParameters(low=300, high=200))


@pytest.mark.oracle
def test_blur_is_opencvs_gaussian():
    picture = photo()
    theirs = cv2.GaussianBlur(picture.permute(1, 2, 0).numpy(), (33, 33), 4.0)  # 4 sigmas each way, as scipy's
    ours = blurred(picture, BlurParameters(sigma=4.0)).permute(1, 2, 0).numpy()
    np.testing.assert_allclose(ours, theirs, atol=2e-6)


@pytest.mark.oracle
def test_luminance_is_opencvs_lightness():
    picture = torch.rand(3, 30, 30, generator=torch.Generator().manual_seed(2))
    theirs = cv2.cvtColor(picture.permute(1, 2, 0).numpy(), cv2.COLOR_RGB2LAB)[:, :, 0] / 100
    np.testing.assert_allclose(lightness_of(picture)[0].numpy(), theirs, atol=2e-3)  # its cube root is a table


@pytest.mark.oracle
def test_otsus_threshold_is_opencvs():
    grey = pixels_of(photo())[:, :, 0]
    assert otsu(grey.astype(np.float32)) == cv2.threshold(grey, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)[0]


def test_threshold_parts_black_from_white():
    assert torch.equal(binary(square(), BinaryParameters()), square()[:1])
    assert torch.equal(binary(0.3 * square(), BinaryParameters(threshold=0)), square()[:1])


def test_soft_edges_are_strongest_at_edges_and_nothing_in_flat_pictures():
    edges = soft_edges(square(), SoftEdgeParameters())[0]
    assert edges[7:9, 16].max() > 0.9
    assert edges[16, 16] < 0.1
    assert soft_edges(torch.full((3, 16, 16), 0.4), SoftEdgeParameters()).max() == 0
    bold, faint = (soft_edges(photo(), SoftEdgeParameters(contrast=c)).mean() for c in (0.5, 2.0))
    assert bold > faint


def test_soft_edges_turn_with_the_picture():
    turned = soft_edges(photo().rot90(1, (1, 2)), SoftEdgeParameters())
    torch.testing.assert_close(turned, soft_edges(photo(), SoftEdgeParameters()).rot90(1, (1, 2)), atol=1e-5, rtol=0)


def test_scribble_follows_dark_lines_and_thickness_thickens_them():
    picture = torch.ones(3, 40, 40)
    picture[:, 20, 5:35] = 0
    thin, thick = (scribble(picture, ScribbleParameters(thickness=t))[0] for t in (0, 3))
    assert thin[20, 10:30].all()
    assert thin.sum() < thick.sum()
    assert thick[17, 20] == thick[23, 20] == 1
    assert thick[:10].sum() == 0


def test_tile_keeps_the_mean_and_loses_detail():
    picture = photo()
    coarse = tiled(picture, TileParameters(rate=4.0))
    assert coarse.shape == picture.shape
    assert (coarse.mean() - picture.mean()).abs() < 0.01
    assert coarse.diff(dim=2).abs().mean() < picture.diff(dim=2).abs().mean()
    assert torch.equal(tiled(picture, TileParameters()), picture)


def test_inpaint_fills_under_the_mask_alone():
    mask = torch.zeros(1, 96, 120)
    mask[:, 10:20, 10:20] = 1
    for fill, value in (("minus one", -1.0), ("black", 0.0), ("white", 1.0), ("grey", 0.5)):
        hint = holed(photo(), InpaintParameters(fill=fill), mask)  # type: ignore[arg-type]
        assert (hint[:, 10:20, 10:20] == value).all()
        assert torch.equal(torch.where(mask > 0, 0, hint), torch.where(mask > 0, 0, photo()))


@pytest.mark.parametrize("spec", PREPROCESSORS, ids=lambda spec: spec.name)
@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (33, 8)])
def test_every_preprocessor_answers_any_picture_the_same_twice(spec, shape):
    picture = torch.rand(3, *shape, generator=torch.Generator().manual_seed(3))
    mask = (torch.rand(1, *shape, generator=torch.Generator().manual_seed(4)) > 0.5).float()
    before = picture.clone()
    hint = spec.hint(picture, {}, mask)
    assert hint.shape == picture.shape
    assert hint.dtype == torch.float32
    assert torch.equal(hint, spec.hint(picture, {}, mask))
    assert torch.equal(picture, before)


def test_a_preprocessor_that_wants_a_mask_is_refused_without_one():
    inpaint = next(spec for spec in PREPROCESSORS if spec.name == "inpaint")
    with pytest.raises(BadRequest, match="Inpaint needs a mask"):
        inpaint.hint(photo(), {})


def test_options_are_checked_by_name():
    spec = next(spec for spec in PREPROCESSORS if spec.name == "canny")
    assert not torch.equal(spec.hint(photo(), {"low": 10, "high": 20}), spec.hint(photo(), {"high": 900, "version": 1}))
    with pytest.raises(BadRequest, match="Canny: field"):
        spec.hint(photo(), {"lwo": 10})
    with pytest.raises(BadRequest, match="Canny: Low threshold"):
        spec.hint(photo(), {"low": 0})
    with pytest.raises(BadRequest, match="of version 2"):
        spec.hint(photo(), {"version": 2})
