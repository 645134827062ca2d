"""Losses and noise levels against closed forms."""

from __future__ import annotations

import pytest
import torch

from backend.training.losses import kl_to_normal, logit_normal_sigmas, min_snr_weight, reconstruction


def test_kl_is_zero_for_the_standard_normal_and_agrees_with_torch():
    assert kl_to_normal(torch.zeros(2, 4), torch.zeros(2, 4)) == 0
    mean, logvar = torch.tensor([0.7]), torch.tensor([-0.4])
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(normal(mean, (logvar / 2).exp()), normal(0.0, 1.0))
    assert kl_to_normal(mean, logvar).item() == pytest.approx(expected.item(), rel=1e-5)


def test_min_snr_weight_is_one_where_noise_is_strong_and_falls_where_it_is_weak():
    weights = min_snr_weight(torch.tensor([14.0, 1.0, 0.1]))
    assert weights.tolist() == pytest.approx([1.0, 1.0, 5 * 0.01])


def test_reconstruction_is_zero_for_the_same_picture_and_counts_lost_edges():
    picture = torch.rand(1, 3, 16, 16)
    assert reconstruction(picture, picture) == 0
    shifted = picture + 0.1
    noisy = picture + 0.1 * torch.randn(picture.shape).sign()
    assert reconstruction(noisy, picture) > reconstruction(shifted, picture)


def test_shift_moves_noise_levels_up_and_keeps_them_inside():
    levels = [logit_normal_sigmas(4000, shift, torch.Generator().manual_seed(0)) for shift in (1.0, 3.0)]
    assert levels[0].median().item() == pytest.approx(0.5, abs=0.02)
    assert levels[1].median().item() == pytest.approx(0.75, abs=0.02)
    assert all(level.min() > 0 and level.max() < 1 for level in levels)
