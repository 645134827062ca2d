"""The networks give what diffusers' give with the same weights."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from backend.checkpoints.diffusers_layout import mmdit_to_diffusers, unet_to_diffusers, vae_to_diffusers
from backend.formats.configs import MMDiTConfig, UNetConfig, VAEConfig
from backend.nn.layers import sinusoid
from tests import builders
from tests.oracles.diffusers_networks import diffusers_mmdit, diffusers_unet, diffusers_vae

pytestmark = pytest.mark.oracle
TOLERANCE = 2e-5  # relative to the largest output
SDXL_WITH_DEPTHS = replace(
    builders.TINY_UNET, channel_mult=(1, 2, 4), depth_in=(0, 1, 2), depth_mid=2, depth_out=(2, 2, 1, 1, 0, 0)
)


def close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    assert ours.shape == theirs.shape
    assert torch.isfinite(ours).all()
    error = ((ours - theirs).abs().max() / theirs.abs().max()).item()
    assert error < TOLERANCE, error


@pytest.mark.parametrize("size", [(16, 16), (17, 23)], ids=["even", "odd"])
@pytest.mark.parametrize(
    "config",
    [
        SDXL_WITH_DEPTHS,
        builders.TINY_UNET_INPAINT,
        builders.TINY_UNET_SD1,
    ],
    ids=["sdxl", "inpaint", "sd1"],
)
def test_unet_matches_diffusers(config: UNetConfig, size: tuple[int, int]):
    unet = builders.tiny_unet(config)
    theirs = diffusers_unet(config)
    theirs.load_state_dict(unet_to_diffusers(unet.state_dict(), config))
    generator = torch.Generator().manual_seed(1)
    context = torch.randn(3, 77, config.context_dim, generator=generator)
    pooled, added = None, None
    if config.label_dim is not None:
        text = torch.randn(3, 128, generator=generator)
        sizes = torch.tensor([[512.0, 384, 0, 16, 512, 384]]).expand(3, 6)
        pooled = torch.cat([text, sinusoid(sizes.flatten(), 256).reshape(3, -1)], dim=1)
        added = {"text_embeds": text, "time_ids": sizes}
    # One noise level a picture: nearly clean with a fraction, middle, pure noise.
    timestep = torch.tensor([1.25, 431.0, 999.0])
    x = torch.randn(3, config.in_channels, *size, generator=generator)
    with torch.no_grad():
        want = theirs(x, timestep, context, added_cond_kwargs=added).sample
        close(unet(x, timestep, context, pooled), want)
        close(unet(x, timestep, unet.prepare_context(context), pooled), want)
    # The path of training differs (no operation in place): it must not differ in what it gives.
    close(unet(x, timestep, context, pooled), want)


@pytest.mark.parametrize(
    "config",
    [
        builders.TINY_MMDIT,
        replace(builders.TINY_MMDIT, qk_norm=True),
        builders.TINY_MMDIT_X,
        replace(builders.TINY_MMDIT_X, depth=3, hidden=192, heads=3, mlp_hidden=768, dual_blocks=3),
    ],
    ids=["sd3", "qk_norm", "dual", "all_dual"],
)
@pytest.mark.parametrize("size", [(16, 16), (22, 10)], ids=["square", "oblong"])
def test_mmdit_matches_diffusers(config: MMDiTConfig, size: tuple[int, int]):
    mmdit = builders.tiny_mmdit(config)
    theirs = diffusers_mmdit(config)
    theirs.load_state_dict(mmdit_to_diffusers(mmdit.state_dict()))
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3, config.in_channels, *size, generator=generator)
    context = torch.randn(3, 40, config.context_dim, generator=generator)
    pooled = torch.randn(3, config.pooled_dim, generator=generator)
    timestep = torch.tensor([2.994, 431.0, 1000.0])
    with torch.no_grad():
        want = theirs(x, context, pooled, timestep).sample
        close(mmdit(x, timestep, context, pooled), want)
        close(mmdit(x, timestep, mmdit.prepare_context(context), pooled), want)


@pytest.mark.parametrize("skipped", [{0}, {1}, {2}, {0, 2}], ids=str)  # dual, plain, last; two
def test_mmdit_without_some_layers_matches_diffusers(skipped: set[int]):
    config = replace(builders.TINY_MMDIT_X, depth=3)
    mmdit = builders.tiny_mmdit(config)
    theirs = diffusers_mmdit(config)
    theirs.load_state_dict(mmdit_to_diffusers(mmdit.state_dict()))
    generator = torch.Generator().manual_seed(1)
    context = torch.randn(2, 20, config.context_dim, generator=generator)
    pooled = torch.randn(2, config.pooled_dim, generator=generator)
    x, timestep = torch.randn(2, 16, 8, 12, generator=generator), torch.tensor([37.5, 900.0])
    with torch.no_grad():
        want = theirs(x, context, pooled, timestep, skip_layers=sorted(skipped)).sample
        whole = mmdit(x, timestep, context, pooled)
        close(mmdit(x, timestep, context, pooled, skip_blocks=frozenset(skipped)), want)
        assert torch.equal(mmdit(x, timestep, context, pooled, skip_blocks=frozenset()), whole)
    assert not torch.allclose(whole, want)


@pytest.mark.parametrize("config", [builders.TINY_VAE, builders.TINY_VAE_16], ids=["4 channels", "16 channels"])
def test_vae_matches_diffusers(config: VAEConfig):
    vae = builders.tiny_vae(config)
    theirs = diffusers_vae(config)
    theirs.load_state_dict(vae_to_diffusers(vae.state_dict(), config))
    image = torch.rand(2, 3, 72, 40, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.no_grad():
        want = theirs.encode(image).latent_dist
        mean, logvar = vae.encode_moments(image)
        close(mean, want.mean)
        close(logvar, want.logvar)
        close(vae.decode(mean), theirs.decode(want.mean).sample)
