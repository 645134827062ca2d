"""Masks: what is kept stays, bit for bit."""

from __future__ import annotations

import pytest
import torch

from backend.diffusion.masking import KeepUnmasked, composite, fill_masked, latent_mask
from backend.diffusion.noise import NoiseSource
from backend.diffusion.prediction import EpsPrediction, FlowPrediction, Prediction
from backend.diffusion.samplers import SAMPLERS
from tests.diffusion.gaussian import Gaussian, ignore, warped


def test_a_cell_is_repainted_if_one_of_its_pixels_is_masked() -> None:
    mask = torch.zeros(1, 1, 32, 64)
    mask[0, 0, 9, 17] = 1.0  # cell (1, 2)
    mask[0, 0, 0, 0] = 0.4  # less than half
    expected = torch.zeros(1, 1, 4, 8)
    expected[0, 0, 1, 2] = 1
    assert torch.equal(latent_mask(mask, (4, 8)), expected)


@pytest.mark.parametrize("name", list(SAMPLERS))
@pytest.mark.parametrize("prediction", [EpsPrediction(), FlowPrediction()], ids=["eps", "flow"])
def test_every_sampler_ends_with_the_kept_part(name: str, prediction: Prediction) -> None:
    init = torch.randn(1, 4, 6, 6, generator=torch.Generator().manual_seed(3))
    mask = torch.zeros(1, 1, 6, 6)
    mask[..., 3:] = 1
    high = 1.0 if prediction.kind == "flow" else 14.6
    sigmas = torch.cat([warped(high, 0.03, 8), torch.zeros(1)]).float()
    noise = NoiseSource([1], (4, 6, 6))
    denoise = KeepUnmasked(Gaussian(prediction).denoise, mask, init)
    x = prediction.add_noise(init, noise.initial, sigmas[0])
    x = SAMPLERS[name].run(denoise, x, sigmas, prediction=prediction, noise=noise, on_step=ignore)
    torch.testing.assert_close(x[..., :3], init[..., :3], atol=1e-4, rtol=1e-4)
    assert torch.equal(composite(x, init, mask)[..., :3], init[..., :3])
    assert not torch.isclose(x[..., 3:], init[..., 3:]).all()


def test_masked_content_changes_only_what_is_masked() -> None:
    init, noise = torch.full((1, 4, 4, 4), 2.0), torch.full((1, 4, 4, 4), 7.0)
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., 2:] = 1
    for content, value in (("original", 2.0), ("latent noise", 7.0), ("latent nothing", 0.0)):
        filled = fill_masked(init, mask, content, noise)
        assert torch.equal(filled[..., :2], init[..., :2])
        assert bool((filled[..., 2:] == value).all())
