"""Built at published sizes, the networks have exactly the tensors of the published files."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from backend.formats.configs import MMDiTConfig, UNetConfig, VAEConfig
from backend.nn.mmdit import MMDiT
from backend.nn.unet import UNet
from backend.nn.vae import VAE
from tests.headers import published

SDXL = UNetConfig(
    in_channels=4,
    out_channels=4,
    model_channels=320,
    channel_mult=(1, 2, 4),
    res_blocks=(2, 2, 2),
    depth_in=(0, 0, 2, 2, 10, 10),
    depth_mid=10,
    depth_out=(10, 10, 10, 2, 2, 2, 0, 0, 0),
    context_dim=2048,
    label_dim=2816,
)
REFINER = UNetConfig(
    in_channels=4,
    out_channels=4,
    model_channels=384,
    channel_mult=(1, 2, 4, 4),
    res_blocks=(2, 2, 2, 2),
    depth_in=(0, 0, 4, 4, 4, 4, 0, 0),
    depth_mid=4,
    depth_out=(0, 0, 0, 4, 4, 4, 4, 4, 4, 0, 0, 0),
    context_dim=1280,
    label_dim=2560,
)
SD2 = UNetConfig(
    in_channels=4,
    out_channels=4,
    model_channels=320,
    channel_mult=(1, 2, 4, 4),
    res_blocks=(2, 2, 2, 2),
    depth_in=(1, 1, 1, 1, 1, 1, 0, 0),
    depth_mid=1,
    depth_out=(0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1),
    context_dim=1024,
    label_dim=None,
)
SD1 = replace(SD2, context_dim=768, head_dim=None, heads=8, linear_projection=False)


def mmdit_config(depth: int, side: int, *, qk_norm: bool, dual_blocks: int) -> MMDiTConfig:
    return MMDiTConfig(
        depth=depth,
        hidden=64 * depth,
        heads=depth,
        in_channels=16,
        out_channels=16,
        patch_size=2,
        context_dim=4096,
        pooled_dim=2048,
        pos_embed_side=side,
        qk_norm=qk_norm,
        dual_blocks=dual_blocks,
        mlp_hidden=256 * depth,
    )


def assert_same_tensors(network: nn.Module, name: str, prefix: str) -> None:
    ours = {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}
    theirs = {key: shape for key, (_, shape) in published(name, prefix).items()}
    assert ours == theirs


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("sdxl_base", SDXL),
        ("sdxl_inpaint", replace(SDXL, in_channels=9)),
        ("sdxl_refiner", REFINER),
        ("sd15", SD1),
        ("sd15_inpaint", SD1),
        ("sd21", SD2),
    ],
)
def test_unet_has_the_published_tensors(name: str, config: UNetConfig):
    first = published(name, "model.diffusion_model.")["input_blocks.0.0.weight"][1]
    with torch.device("meta"):
        unet = UNet(replace(config, in_channels=first[1]))
    assert_same_tensors(unet, name, "model.diffusion_model.")


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("sd3_medium_incl_clips_t5xxl", mmdit_config(24, 192, qk_norm=False, dual_blocks=0)),
        ("sd35_medium", mmdit_config(24, 384, qk_norm=True, dual_blocks=13)),
        ("sd35_large", mmdit_config(38, 192, qk_norm=True, dual_blocks=0)),
    ],
)
def test_mmdit_has_the_published_tensors(name: str, config: MMDiTConfig):
    with torch.device("meta"):
        mmdit = MMDiT(config)
    assert_same_tensors(mmdit, name, "model.diffusion_model.")


@pytest.mark.parametrize(
    ("name", "prefix", "channels"),
    [
        ("sdxl_vae", "", 4),
        ("sd3_vae", "", 16),
        ("sdxl_base", "first_stage_model.", 4),
        ("sd15", "first_stage_model.", 4),
        ("sd21", "first_stage_model.", 4),
        ("sd35_large", "first_stage_model.", 16),
    ],
)
def test_vae_has_the_published_tensors(name: str, prefix: str, channels: int):
    with torch.device("meta"):
        vae = VAE(VAEConfig(channels, 128, (1, 2, 4, 4), 2, quant_conv=channels == 4))
    assert_same_tensors(vae, name, prefix)


@pytest.mark.parametrize(
    ("config", "blocks"),
    [
        (replace(SDXL, depth_in=(0, 0, 2, 2, 4, 4), depth_mid=0, depth_out=(4, 4, 10, 2, 1, 1, 0, 0, 0)), ["0"]),
        (
            replace(SDXL, res_blocks=(1, 1, 1), depth_in=(0, 2, 5), depth_mid=None, depth_out=(5, 5, 2, 2, 0, 0)),
            [],
        ),
    ],
    ids=["SSD-1B", "KOALA 700M"],
)
def test_distilled_unets_have_a_smaller_middle(config: UNetConfig, blocks: list[str]):
    with torch.device("meta"):
        keys = UNet(config).state_dict()
    middle = {key.split(".")[1] for key in keys if key.startswith("middle_block.")}
    assert sorted(middle) == blocks
