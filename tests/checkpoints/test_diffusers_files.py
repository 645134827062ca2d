"""Files in diffusers naming are detected as what they are and loaded as the same networks."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from backend.checkpoints import diffusers_layout
from backend.checkpoints.diffusers_layout import mmdit_to_diffusers, unet_to_diffusers, vae_to_diffusers
from backend.checkpoints.load import load_part, load_vae_file
from backend.checkpoints.save import write_tensors
from backend.errors import ModelCorrupt
from backend.formats.configs import CheckpointInfo, OtherFile, VaeInfo
from backend.formats.detect import detect
from backend.formats.reader import read_header
from tests import builders
from tests.oracles.diffusers_networks import diffusers_mmdit, diffusers_vae

VAE_GROUPS = {"easel.vae": json.dumps({"norm_groups": 8})}
UNETS = {
    "SDXL": builders.TINY_UNET,
    "SDXL inpainting": builders.TINY_UNET_INPAINT,
    "SSD-1B": replace(builders.TINY_UNET, depth_mid=0),
    "KOALA": replace(builders.TINY_UNET, depth_mid=None),
}


def write(path, state, metadata=None, prefix=""):
    write_tensors(path, {prefix + key: tensor.contiguous() for key, tensor in state.items()}, metadata or {})
    return detect(read_header(path))


def same(module, expected):
    found = module.state_dict()
    assert set(found) == set(expected)
    for key, tensor in expected.items():
        assert torch.equal(found[key], tensor), key


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model.", "diffusion_model."])
@pytest.mark.parametrize("config", UNETS.values(), ids=UNETS)
def test_a_unet_in_diffusers_naming_is_the_same_network(tmp_path, config, prefix):
    unet = builders.tiny_unet(config)
    info = write(tmp_path / "u.safetensors", unet_to_diffusers(unet.state_dict(), config), prefix=prefix)
    assert isinstance(info, CheckpointInfo)
    assert info.denoiser == config
    assert (info.sources["denoiser"].layout, info.sources["denoiser"].prefix) == ("diffusers", prefix)
    assert not any("belong to no part" in note for note in info.notes)
    same(load_part(info, "denoiser"), unet.state_dict())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2])
@pytest.mark.parametrize("config", [builders.TINY_MMDIT, builders.TINY_MMDIT_X], ids=["SD3", "SD3.5 Medium"])
def test_an_mmdit_in_diffusers_naming_is_the_same_network(tmp_path, config, dtype):
    mmdit = builders.tiny_mmdit(config).to(dtype)
    info = write(tmp_path / "m.safetensors", mmdit_to_diffusers(mmdit.state_dict()))
    assert isinstance(info, CheckpointInfo)
    assert (info.family, info.denoiser, info.sources["denoiser"].layout) == ("sd3", config, "diffusers")
    same(load_part(info, "denoiser"), mmdit.state_dict())


@pytest.mark.parametrize("prefix", ["", "vae.", "first_stage_model."])
@pytest.mark.parametrize("is_old", [False, True], ids=["new", "before 0.18"])
@pytest.mark.parametrize("config", [builders.TINY_VAE, builders.TINY_VAE_16], ids=["4 channels", "16 channels"])
def test_a_vae_in_diffusers_naming_is_the_same_network(tmp_path, config, prefix, is_old):
    vae = builders.tiny_vae(config)
    theirs = vae_to_diffusers(vae.state_dict(), config)
    if is_old:
        for new, old in {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}.items():
            theirs = {key.replace(f"attentions.0.{new}.", f"attentions.0.{old}."): t for key, t in theirs.items()}
    info = write(tmp_path / "v.safetensors", theirs, VAE_GROUPS, prefix)
    assert isinstance(info, VaeInfo)
    assert info.config == config
    same(load_vae_file(info), vae.state_dict())


def test_the_same_vae_in_the_original_naming_with_and_without_a_prefix(tmp_path):
    vae = builders.tiny_vae()
    for prefix in ("", "first_stage_model.", "vae."):
        info = write(tmp_path / "v.safetensors", vae.state_dict(), VAE_GROUPS, prefix)
        assert isinstance(info, VaeInfo)
        same(load_vae_file(info), vae.state_dict())


def test_a_network_with_layers_of_its_own_is_not_taken_for_ours(tmp_path):
    theirs = unet_to_diffusers(builders.tiny_unet().state_dict(), builders.TINY_UNET)
    for stray in ("encoder_hid_proj.weight", "down_blocks.0.motion_modules.0.proj_in.weight"):
        info = write(tmp_path / "u.safetensors", theirs | {stray: torch.zeros(3, 3)})
        assert isinstance(info, OtherFile)
        assert info.kind == "U-Net in diffusers naming"


def test_a_header_that_names_block_999999_is_answered_at_once(tmp_path):
    theirs = mmdit_to_diffusers(builders.tiny_mmdit().state_dict())
    theirs["transformer_blocks.999999.ff.net.2.weight"] = torch.zeros(1)
    theirs |= {f"down_blocks.{n}.resnets.999999.conv1.weight": torch.zeros(1) for n in (0, 999_999)}
    assert isinstance(write(tmp_path / "m.safetensors", theirs), OtherFile)


def test_parts_of_a_matrix_that_do_not_fit_are_a_sentence(tmp_path):
    theirs = mmdit_to_diffusers(builders.tiny_mmdit().state_dict())
    theirs["transformer_blocks.0.attn.to_k.weight"] = torch.zeros(128, 64)
    info = write(tmp_path / "m.safetensors", theirs)
    with pytest.raises(ModelCorrupt, match="do not fit"):
        load_part(info, "denoiser")


@pytest.mark.oracle
def test_fact_6_the_last_modulations_of_a_file_by_diffusers_are_read_in_the_right_order(tmp_path, monkeypatch):
    """diffusers stores (scale, shift) where the published files have (shift, scale): FORMATS.md, section 1, row 6."""
    config = builders.TINY_MMDIT_X
    theirs = diffusers_mmdit(config)
    builders.randomise(theirs)
    info = write(tmp_path / "m.safetensors", theirs.state_dict())
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, config.in_channels, 16, 12, generator=generator)
    context = torch.randn(2, 20, config.context_dim, generator=generator)
    pooled = torch.randn(2, config.pooled_dim, generator=generator)
    timestep = torch.tensor([40.0, 900.0])

    def error() -> float:
        ours = load_part(info, "denoiser")(x, timestep, context, pooled)
        return ((ours - want).abs().max() / want.abs().max()).item()

    with torch.no_grad():
        want = theirs(x, context, pooled, timestep).sample
        assert error() < 2e-5
        monkeypatch.setattr(diffusers_layout, "swap_halves", lambda tensor: tensor)
        assert error() > 0.1  # as read by someone who does not know


@pytest.mark.oracle
@pytest.mark.parametrize("config", [builders.TINY_VAE, builders.TINY_VAE_16], ids=["4 channels", "16 channels"])
def test_a_vae_file_by_diffusers_decodes_and_encodes_as_there(tmp_path, config):
    theirs = diffusers_vae(config)
    builders.randomise(theirs)
    info = write(tmp_path / "v.safetensors", theirs.state_dict(), VAE_GROUPS)
    ours = load_vae_file(info)
    generator = torch.Generator().manual_seed(1)
    latent = torch.randn(1, config.latent_channels, 5, 7, generator=generator)
    with torch.no_grad():
        image = theirs.decode(latent).sample
        torch.testing.assert_close(ours.decode(latent), image, rtol=1e-4, atol=1e-4)
        mean = theirs.encode(image).latent_dist.mean
        torch.testing.assert_close(ours.encode(image), mean, rtol=1e-4, atol=1e-4)
