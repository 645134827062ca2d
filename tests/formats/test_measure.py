"""A configuration read from the shapes of a network is the configuration that the network was built from."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from backend.formats import measure
from backend.formats.configs import MMDiTConfig, VAEConfig
from backend.formats.reader import TensorInfo
from backend.nn.mmdit import MMDiT
from backend.nn.unet import UNet
from backend.nn.vae import VAE
from tests import builders
from tests.formats.files import published
from tests.formats.test_detect import REFINER, SD1, SD2, SD3_MEDIUM, SD35_LARGE, SD35_MEDIUM, SDXL_UNET, VAE_4, VAE_16

SMALL = replace(SDXL_UNET, res_blocks=(1, 1, 1))
UNETS = {
    "SDXL": SDXL_UNET,
    "SDXL inpainting": replace(SDXL_UNET, in_channels=9),
    "refiner": REFINER,
    "SD2": SD2,
    "SD1": SD1,
    "SSD-1B": replace(SDXL_UNET, depth_in=(0, 0, 2, 2, 4, 4), depth_mid=0, depth_out=(4, 4, 10, 2, 1, 1, 0, 0, 0)),
    "Vega": replace(SDXL_UNET, depth_in=(0, 0, 1, 1, 2, 2), depth_mid=0, depth_out=(2, 2, 2, 1, 1, 1, 0, 0, 0)),
    "KOALA 700M": replace(SMALL, depth_in=(0, 2, 5), depth_mid=None, depth_out=(5, 5, 2, 2, 0, 0)),
    "KOALA 1B": replace(SMALL, depth_in=(0, 2, 6), depth_mid=6, depth_out=(6, 6, 2, 2, 0, 0)),
    "tiny": builders.TINY_UNET,
}  # fmt: skip
DEMO = replace(SD35_MEDIUM, depth=4, hidden=256, heads=4, dual_blocks=2)
DENOISER = "model.diffusion_model."


def shapes(module: torch.nn.Module) -> dict[str, TensorInfo]:
    return {key: TensorInfo("F16", tuple(tensor.shape)) for key, tensor in module.state_dict().items()}


@pytest.mark.parametrize("config", UNETS.values(), ids=UNETS)
def test_unet_config_is_read_back_from_its_keys(config):
    with torch.device("meta"):
        assert measure.unet_config(shapes(UNet(config))) == config


@pytest.mark.parametrize(
    "config",
    [SD3_MEDIUM, SD35_MEDIUM, SD35_LARGE, builders.TINY_MMDIT, builders.TINY_MMDIT_X, DEMO],
    ids=["SD3 Medium", "SD3.5 Medium", "SD3.5 Large", "tiny", "tiny dual", "demo"],
)
def test_mmdit_config_is_read_back_from_its_keys(config: MMDiTConfig):
    with torch.device("meta"):
        assert measure.mmdit_config(shapes(MMDiT(config))) == config


@pytest.mark.parametrize("config", [VAE_4, VAE_16, replace(builders.TINY_VAE, norm_groups=32)])
def test_vae_config_is_read_back_from_its_keys(config: VAEConfig):
    with torch.device("meta"):
        found = measure.vae_config(shapes(VAE(replace(config, norm_groups=8))))
    assert found == config


@pytest.mark.parametrize(
    ("name", "config"), [("sdxl_refiner", REFINER), ("sd21", SD2), ("sd15", SD1), ("sdxl_base", SDXL_UNET)]
)
def test_published_unets_have_the_published_numbers(name, config):
    tensors = {k.removeprefix(DENOISER): v for k, v in published(name).items() if k.startswith(DENOISER)}
    assert measure.unet_config({k: TensorInfo(dtype, tuple(shape)) for k, (dtype, shape) in tensors.items()}) == config
