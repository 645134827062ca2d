"""U-Nets of every build, narrowed: the same as diffusers' at three noise levels, on even and odd sizes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from backend.checkpoints.diffusers_layout import unet_to_diffusers
from backend.formats.configs import UNetConfig
from backend.formats.measure import unet_config
from backend.formats.reader import TensorInfo
from backend.formats.variants import SDXL_VARIANTS, Source
from backend.nn.layers import sinusoid
from backend.nn.unet import UNet
from tests import builders
from tests.nn.test_against_diffusers import close
from tests.nn.test_published_keys import SD1, SD2, SDXL
from tests.oracles.diffusers_networks import diffusers_unet

pytestmark = pytest.mark.oracle
POOLED = 32


def narrow(config: UNetConfig, **changes: Any) -> UNetConfig:
    label_dim = None if config.label_dim is None else POOLED + 6 * 256
    return replace(config, model_channels=64, context_dim=48, label_dim=label_dim, **changes)


SSD_1B = narrow(SDXL, depth_in=(0, 0, 2, 2, 4, 4), depth_mid=0, depth_out=(4, 4, 10, 2, 1, 1, 0, 0, 0))
VEGA = narrow(SDXL, depth_in=(0, 0, 1, 1, 2, 2), depth_mid=0, depth_out=(2, 2, 2, 1, 1, 1, 0, 0, 0))
KOALA_700M = narrow(SDXL, res_blocks=(1, 1, 1), depth_in=(0, 2, 5), depth_mid=None, depth_out=(5, 5, 2, 2, 0, 0))
KOALA_1B = narrow(SDXL, res_blocks=(1, 1, 1), depth_in=(0, 2, 6), depth_mid=6, depth_out=(6, 6, 2, 2, 0, 0))

#: What the published config.json of each says beside widths.
DISTILLED: dict[str, tuple[UNetConfig, dict[str, Any]]] = {
    "SSD-1B": (SSD_1B, {
        "layers_per_block": 2, "mid_block_type": "UNetMidBlock2D",
        "transformer_layers_per_block": [1, [2, 2], [4, 4]],
        "reverse_transformer_layers_per_block": [[4, 4, 10], [2, 1, 1], 1],
    }),
    "Segmind Vega": (VEGA, {
        "layers_per_block": 2, "mid_block_type": "UNetMidBlock2D",
        "transformer_layers_per_block": [1, [1, 1], [2, 2]],
        "reverse_transformer_layers_per_block": [[2, 2, 2], [1, 1, 1], 1],
    }),
    "KOALA 700M": (KOALA_700M, {
        "layers_per_block": 1, "mid_block_type": None, "transformer_layers_per_block": [1, 2, 5],
    }),
    "KOALA 1B": (KOALA_1B, {
        "layers_per_block": 1, "mid_block_type": "UNetMidBlock2DCrossAttn", "transformer_layers_per_block": [1, 2, 6],
    }),
}  # fmt: skip


def distilled_peer(config: UNetConfig, published: dict[str, Any]) -> Any:
    from diffusers import UNet2DConditionModel

    widths = [config.model_channels * mult for mult in config.channel_mult]
    return UNet2DConditionModel(
        in_channels=4, out_channels=4, block_out_channels=widths, cross_attention_dim=config.context_dim,
        down_block_types=["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        up_block_types=["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        attention_head_dim=[width // 64 for width in widths], use_linear_projection=True,
        addition_embed_type="text_time", addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=config.label_dim, **published,
    ).eval()  # fmt: skip


def inputs(config: UNetConfig, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Any]:
    """x, timestep, context, pooled, and diffusers' form of pooled; one noise level a picture."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3, config.in_channels, *size, generator=generator)
    context = torch.randn(3, 77, config.context_dim, generator=generator)
    timestep = torch.tensor([0.25, 431.0, 999.0])
    if config.label_dim is None:
        return x, timestep, context, None, None
    text = torch.randn(3, POOLED, generator=generator)
    sizes = torch.tensor([[512.0, 384, 0, 16, 512, 384]]).expand(3, 6)
    pooled = torch.cat([text, sinusoid(sizes.flatten(), 256).reshape(3, -1)], dim=1)
    return x, timestep, context, pooled, {"text_embeds": text, "time_ids": sizes}


SIZES = pytest.mark.parametrize("size", [(16, 16), (9, 13)], ids=["even", "odd"])


@SIZES
@pytest.mark.parametrize("name", DISTILLED)
def test_a_distilled_unet_is_diffusers(name: str, size: tuple[int, int]) -> None:
    config, published = DISTILLED[name]
    unet = builders.tiny_unet(config)
    theirs = distilled_peer(config, published)
    theirs.load_state_dict(unet_to_diffusers(unet.state_dict(), config))
    x, timestep, context, pooled, added = inputs(config, size)
    with torch.no_grad():
        want = theirs(x, timestep, context, added_cond_kwargs=added).sample
        close(unet(x, timestep, unet.prepare_context(context), pooled), want)


@pytest.mark.parametrize("name", DISTILLED)
def test_a_distilled_unet_is_told_by_its_keys(name: str) -> None:
    config, _ = DISTILLED[name]
    with torch.device("meta"):
        state = UNet(config).state_dict()
    tensors = {key: TensorInfo("F32", tuple(tensor.shape)) for key, tensor in state.items()}
    assert unet_config(tensors) == config
    assert next(row.name for row in SDXL_VARIANTS if row.when(config, Source(tensors, {}))) == name


@SIZES
@pytest.mark.parametrize("config", [narrow(SD1), narrow(SD2)], ids=["SD1", "SD2"])
def test_unets_of_four_levels_without_a_pooled_vector_are_diffusers(config: UNetConfig, size: tuple[int, int]) -> None:
    unet = builders.tiny_unet(config)
    theirs = diffusers_unet(config)
    theirs.load_state_dict(unet_to_diffusers(unet.state_dict(), config))
    x, timestep, context, _, _ = inputs(config, size)
    with torch.no_grad():
        close(unet(x, timestep, unet.prepare_context(context)), theirs(x, timestep, context).sample)


@pytest.mark.parametrize(("published", "other"), [(SD1, {"heads": None, "head_dim": 64}), (SD2, {"heads": 8})])
def test_fact_2_sd1_has_8_heads_at_every_level_and_sd2_heads_of_64(published: UNetConfig, other: Any) -> None:
    """Read from the projection's rank alone; diffusers' published configs say [8, 8, 8, 8] and [1, 2, 4, 4]."""
    from diffusers import UNet2DConditionModel

    config = narrow(published)
    unet = builders.tiny_unet(config)
    state = unet.state_dict()
    measured = unet_config({key: TensorInfo("F32", tuple(tensor.shape)) for key, tensor in state.items()})
    assert measured == config
    blocks = ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"]
    theirs = UNet2DConditionModel(
        block_out_channels=[64, 128, 256, 256], cross_attention_dim=48, down_block_types=blocks,
        up_block_types=["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
        attention_head_dim=8 if published is SD1 else [1, 2, 4, 4], use_linear_projection=published is SD2,
    ).eval()  # fmt: skip
    theirs.load_state_dict(unet_to_diffusers(state, config))
    x, timestep, context, _, _ = inputs(config, (8, 8))
    wrong = UNet(replace(config, **({"head_dim": None} | other)))
    wrong.load_state_dict(state)
    with torch.no_grad():
        want = theirs(x, timestep, context).sample
        close(filled(measured, state)(x, timestep, context), want)
        error = (wrong.eval()(x, timestep, context) - want).abs().max() / want.abs().max()
    assert error > 1e-3


def filled(config: UNetConfig, state: dict[str, Tensor]) -> UNet:
    unet = UNet(config)
    unet.load_state_dict(state)
    return unet.eval()
