"""Latent formats: scale and shift, and the preview."""

from __future__ import annotations

from dataclasses import replace

import torch

from backend.diffusion.latent_format import LatentFormat
from backend.formats.configs import LatentConstants

CONSTANTS = LatentConstants(
    channels=2, scale=1.5305, shift=0.0609, rgb_factors=((1.0, 0.0, 0.5), (0.0, -1.0, 0.5)), rgb_bias=(0.1, 0.0, 0.0)
)


def test_encode_subtracts_the_shift_before_it_scales_and_decode_undoes_it() -> None:
    raw = torch.full((1, 2, 3, 3), 1.0609)
    latent = LatentFormat(CONSTANTS).encode(raw)
    torch.testing.assert_close(latent, torch.full_like(raw, 1.5305))
    torch.testing.assert_close(LatentFormat(CONSTANTS).decode(latent), raw)


def test_preview_is_a_clamped_linear_map() -> None:
    latent = torch.tensor([0.5, 0.25]).view(1, 2, 1, 1).expand(1, 2, 3, 4)
    rgb = LatentFormat(CONSTANTS).preview(latent)
    assert rgb.shape == (1, 3, 3, 4)
    torch.testing.assert_close(rgb[0, :, 0, 0], torch.tensor([0.6, -0.25, 0.375]))
    assert float(LatentFormat(CONSTANTS).preview(latent * 100).max()) == 1.0


def test_each_channel_may_have_its_own_mean_and_deviation() -> None:
    """Playground 2.5: (raw - mean) * 0.5 / deviation."""
    constants = replace(CONSTANTS, scale=0.5, shift=0.0, means=(-1.6574, 1.886), deviations=(8.4927, 5.9022))
    raw = torch.randn(2, 2, 3, 4, generator=torch.Generator().manual_seed(0))
    latent = LatentFormat(constants).encode(raw)
    torch.testing.assert_close(latent[:, 0], (raw[:, 0] + 1.6574) * 0.5 / 8.4927)
    torch.testing.assert_close(latent[:, 1], (raw[:, 1] - 1.886) * 0.5 / 5.9022)
    torch.testing.assert_close(LatentFormat(constants).decode(latent), raw)
