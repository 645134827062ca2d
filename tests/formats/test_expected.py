"""The tables of expected tensors are the networks' own state dicts, key by key."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from backend.formats.configs import CLIPConfig, MMDiTConfig, T5Config, UNetConfig, VAEConfig
from backend.formats.expected import expected, expected_open_clip
from backend.formats.layout import is_nuisance
from backend.nn.mmdit import MMDiT
from backend.nn.unet import UNet
from backend.nn.vae import VAE
from backend.text.encoders import build_clip, build_t5
from tests import builders
from tests.checkpoints import tiny
from tests.formats.files import published
from tests.formats.test_detect import CLIP_G, CLIP_H, CLIP_L, T5
from tests.formats.test_measure import DEMO, SD3_MEDIUM, SD35_LARGE, SD35_MEDIUM, UNETS, VAE_4, VAE_16

CONFIGS = {
    **UNETS,
    "tiny SD1": builders.TINY_UNET_SD1,
    "tiny SD2": builders.TINY_UNET_SD2,
    "SD3 Medium": SD3_MEDIUM,
    "SD3.5 Medium": SD35_MEDIUM,
    "SD3.5 Large": SD35_LARGE,
    "demo": DEMO,
    "tiny MMDiT": builders.TINY_MMDIT,
    "tiny MMDiT-X": builders.TINY_MMDIT_X,
    "VAE 4": VAE_4,
    "VAE 16": VAE_16,
    "tiny VAE": builders.TINY_VAE,
    "CLIP-L": CLIP_L,
    "CLIP-L projected": replace(CLIP_L, projection_dim=768),
    "tiny CLIP-G": tiny.CLIP_G,
    "T5": T5,
    "tiny T5": tiny.T5,
}


BUILDERS = {UNetConfig: UNet, MMDiTConfig: MMDiT, VAEConfig: VAE, CLIPConfig: build_clip, T5Config: build_t5}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_expected_tensors_are_those_of_the_module(config):
    with torch.device("meta"):
        state = BUILDERS[type(config)](config).state_dict()
    assert expected(config) == {key: tuple(tensor.shape) for key, tensor in state.items()}


@pytest.mark.parametrize(
    ("name", "prefix", "config"),
    [
        ("sdxl_base", "conditioner.embedders.1.model.", CLIP_G),
        ("sd21", "cond_stage_model.model.", CLIP_H),
    ],
)
def test_expected_tensors_in_open_clip_naming_are_the_published_ones(name, prefix, config: CLIPConfig | T5Config):
    found = {key.removeprefix(prefix): shape for key, (_, shape) in published(name).items() if key.startswith(prefix)}
    assert isinstance(config, CLIPConfig)
    assert expected_open_clip(config) == {key: tuple(s) for key, s in found.items() if not is_nuisance(key)}
