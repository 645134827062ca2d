"""Hints as each kind of guidance network was trained on them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from backend.control.hints import latent_hint, latent_rule, pixel_hint
from backend.errors import BadRequest
from backend.formats.constants import SD3_LATENT
from tests.control import tiny


def squeeze(image: Tensor) -> Tensor:
    """Stands for the VAE: a latent that shows what went in."""
    return image.mean(dim=1, keepdim=True)[:, :, ::8, ::8].expand(-1, 16, -1, -1)


PICTURE = torch.rand(1, 3, 32, 24, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("hint_type", "gain", "offset"), [(0, 2, -1), (1, 127.5, 0.5), (2, 2, -1), (None, 2, -1)])
def test_stability_hint_is_a_shifted_latent_and_canny_goes_in_unscaled(hint_type, gain, offset):
    """Stability's own code hands the VAE 127.5 a + 0.5 for edges, which is what its canny network knows."""
    got = latent_hint(tiny.CHAINED, PICTURE, squeeze, SD3_LATENT, hint_type=hint_type)
    torch.testing.assert_close(got, (squeeze(gain * PICTURE + offset) - SD3_LATENT.shift) * SD3_LATENT.scale)
    assert not latent_rule(tiny.CHAINED).pooled_zeros


def test_instantx_hint_is_not_shifted_and_its_pooled_text_is_zeros():
    got = latent_hint(tiny.JOINT, PICTURE, squeeze, SD3_LATENT)
    torch.testing.assert_close(got, squeeze(2 * PICTURE - 1) * SD3_LATENT.scale)
    assert latent_rule(tiny.JOINT).pooled_zeros


def test_inpainting_hint_is_black_under_the_mask_and_says_what_is_kept():
    config = replace(tiny.JOINT, hint_channels=17)
    mask = torch.zeros(1, 1, 32, 24)
    mask[:, :, :16] = 1
    got = latent_hint(config, PICTURE, squeeze, SD3_LATENT, mask=mask)
    masked = torch.where(mask > 0.5, -1.0, 2 * PICTURE - 1)
    torch.testing.assert_close(got[:, :16], (squeeze(masked) - SD3_LATENT.shift) * SD3_LATENT.scale)
    assert got[0, 16].tolist() == [[0.0] * 3] * 2 + [[1.0] * 3] * 2
    assert not latent_rule(config).pooled_zeros
    with pytest.raises(BadRequest, match="repaints under a mask"):
        latent_hint(config, PICTURE, squeeze, SD3_LATENT)


def test_pixel_hint_has_eight_times_the_latents_side():
    hint = pixel_hint(tiny.CONTROLNET, PICTURE, 9, 5)
    assert hint.shape == (1, 3, 72, 40)
    assert 0 <= hint.min() <= hint.max() <= 1
    same = pixel_hint(tiny.CONTROLNET, PICTURE, 4, 3)
    assert torch.equal(same, PICTURE)


def test_t2i_hint_is_padded_to_whole_squares_and_grey_where_it_wants_one_channel():
    grey = pixel_hint(replace(tiny.T2I_XL, hint_channels=1), PICTURE, 5, 3)
    assert grey.shape == (1, 1, 48, 32)
    assert torch.equal(grey[:, :, 40:], grey[:, :, 39:40].expand(-1, -1, 8, -1))
