"""Each method's arithmetic against its paper's formula, written anew here, or against diffusers."""

from __future__ import annotations

import pytest
import torch

from backend.api import Outputs
from extensions.guidance.apg import ApgParameters, projected, projecting
from extensions.guidance.cfg_zero import CfgZeroParameters, fitted, stopping_patches
from extensions.guidance.fdg import FdgParameters, coarse_part, decoupling
from extensions.guidance.freeu import scaled_backbone, scaled_skip
from extensions.guidance.seg import UNIFORM, blurred
from extensions.guidance.thresholding import in_range_of

DRAW = torch.Generator().manual_seed(3)
X, COND, UNCOND = (torch.randn(2, 4, 12, 10, generator=DRAW) for _ in range(3))


def outputs(scale: float = 5.0, step: int = 0, sigma: float = 0.8, **latents: torch.Tensor) -> Outputs:
    return Outputs({"cond": COND, "uncond": UNCOND, **latents}, X, sigma, scale, step, 10)


def cfg(uncond: torch.Tensor, scale: float = 5.0) -> torch.Tensor:
    return uncond + scale * (COND - uncond)


@pytest.mark.oracle
@pytest.mark.parametrize(("eta", "norm", "momentum"), [(0.0, 15.0, -0.5), (0.3, 2.0, 0.4), (1.0, 0.0, 0.0)])
def test_apg_matches_diffusers_over_several_steps(eta, norm, momentum):
    from diffusers.guiders.adaptive_projected_guidance import MomentumBuffer, normalized_guidance

    buffer = MomentumBuffer(momentum)
    change = projecting(ApgParameters(eta=eta, norm=norm, momentum=momentum))
    bound = norm * (COND[0].numel() / 65536) ** 0.5
    for step in range(3):
        uncond = UNCOND * (1 + step)
        ours = cfg(change(outputs(step=step, sigma=0.9 - 0.1 * step, uncond=uncond))["uncond"])
        theirs = normalized_guidance(
            COND, uncond, 4.0, buffer, eta=eta, norm_threshold=bound, use_original_formulation=True
        )
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_apgs_momentum_begins_anew_with_the_next_batch():
    change = projecting(ApgParameters())
    first = change(outputs(sigma=1.0))["uncond"]
    change(outputs(step=1, sigma=0.5, uncond=2 * UNCOND))
    assert torch.equal(change(outputs(sigma=1.0))["uncond"], first)


def test_apg_without_the_parallel_part_is_orthogonal_to_cond():
    moved = projected(COND - UNCOND, COND, 0.0, 0.0)
    assert torch.allclose((moved * COND).sum(dim=(1, 2, 3)), torch.zeros(2), atol=1e-3)


def test_cfg_zero_fits_the_velocity_by_least_squares():
    v_cond, v_uncond = (X - COND) / 0.8, (X - fitted(outputs())["uncond"]) / 0.8
    residual = v_cond - v_uncond
    assert torch.allclose((residual * v_uncond).sum(dim=(1, 2, 3)), torch.zeros(2), atol=1e-3)
    assert fitted(Outputs({"cond": COND}, X, 0.8, 1.0, 0, 10)) == {}


def test_cfg_zero_stands_still_in_its_first_steps_only():
    (stop,) = stopping_patches(CfgZeroParameters(zero_steps=2))
    assert torch.equal(stop.change(COND, outputs(step=1)), X)  # type: ignore[attr-defined]
    assert torch.equal(stop.change(COND, outputs(step=2)), COND)  # type: ignore[attr-defined]


def test_fdg_weighs_the_two_parts_by_their_own_scales():
    direction = COND - UNCOND
    low = coarse_part(direction, 2)
    expected = UNCOND + 5.0 * (0.5 * low + 1.5 * (direction - low))
    ours = cfg(decoupling(FdgParameters(low=0.5, high=1.5, levels=2))(outputs())["uncond"])
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


def test_the_coarse_part_keeps_a_constant_and_loses_a_chequerboard():
    assert torch.allclose(coarse_part(torch.ones(1, 2, 9, 8), 2), torch.ones(1, 2, 9, 8), atol=1e-5)
    chequers = (-1.0) ** (torch.arange(16)[:, None] + torch.arange(16))
    assert float(coarse_part(chequers[None, None], 1).abs().max()) < 0.01


def test_a_threshold_brings_the_largest_value_to_the_mimics():
    guided, mimic = 3 * COND, COND
    changed = in_range_of(guided, mimic, 1.0)
    centred = changed - guided.mean(dim=(2, 3), keepdim=True)
    expected = (COND - COND.mean(dim=(2, 3), keepdim=True)).abs().amax(dim=(2, 3))
    torch.testing.assert_close(centred.abs().amax(dim=(2, 3)), expected)
    assert torch.allclose(in_range_of(COND, COND, 0.9), COND, atol=1e-6)


def test_wide_blur_is_the_mean_of_the_image_tokens_and_text_stays():
    q = torch.randn(1, 2, 5 + 12, 4, generator=DRAW)
    uniform = blurred(q, (3, 4), UNIFORM)
    assert torch.equal(uniform[:, :, :5], q[:, :, :5])
    torch.testing.assert_close(uniform[:, :, 5:], q[:, :, 5:].mean(2, keepdim=True).expand(1, 2, 12, 4))
    torch.testing.assert_close(blurred(q, (3, 4), 90.0), uniform, rtol=1e-3, atol=1e-3)


def test_a_narrow_blur_is_a_gaussian_filter_inside_the_picture():
    q = torch.zeros(1, 1, 21 * 21, 1)
    q[0, 0, 10 * 21 + 10] = 1
    at = torch.arange(-10.0, 11)
    line = torch.exp(-(at**2) / 2) / torch.exp(-(at**2) / 2).sum()
    out = blurred(q, (21, 21), 1.0).view(21, 21)
    torch.testing.assert_close(out[8:13, 8:13], torch.outer(line, line)[8:13, 8:13], rtol=1e-3, atol=1e-6)


@pytest.mark.oracle
@pytest.mark.parametrize("size", [(8, 8), (9, 12)])
def test_freeus_skip_filter_matches_diffusers(size):
    from diffusers.utils.torch_utils import fourier_filter

    h = torch.randn(2, 6, *size, generator=DRAW)
    torch.testing.assert_close(scaled_skip(h, 0.3), fourier_filter(h, 1, 0.3), rtol=1e-4, atol=1e-5)


def test_freeus_backbone_grows_where_its_mean_is_high():
    h = torch.randn(2, 6, 5, 5, generator=DRAW)
    mean = h.mean(1)
    scaled = scaled_backbone(h, 1.4)
    assert torch.equal(scaled[:, 3:], h[:, 3:])
    for image in range(2):
        top = divmod(int(mean[image].argmax()), 5)
        low = divmod(int(mean[image].argmin()), 5)
        torch.testing.assert_close(scaled[image, :3, *top], 1.4 * h[image, :3, *top])
        torch.testing.assert_close(scaled[image, :3, *low], h[image, :3, *low])
