"""Names between layouts: nothing is lost, nothing is invented, and there and back is the same tensor."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from backend.checkpoints.convert import clip_from_open_clip, clip_to_open_clip
from backend.checkpoints.diffusers_layout import (
    mmdit_from_diffusers,
    mmdit_to_diffusers,
    swap_halves,
    unet_from_diffusers,
    unet_to_diffusers,
    vae_from_diffusers,
    vae_to_diffusers,
)
from backend.formats.configs import UNetConfig
from backend.nn.mmdit import MMDiT
from backend.nn.unet import UNet
from backend.text.encoders import build_clip
from tests import builders
from tests.checkpoints import tiny
from tests.formats.test_detect import SDXL_UNET

TINY_UNETS = {
    "SDXL": builders.TINY_UNET,
    "SD1": builders.TINY_UNET_SD1,
    "SSD-1B": replace(builders.TINY_UNET, depth_mid=0),
    "KOALA": replace(builders.TINY_UNET, depth_mid=None),
    "two blocks": replace(
        builders.TINY_UNET, res_blocks=(2, 1, 2), depth_in=(0, 0, 1, 2, 2), depth_out=(2, 2, 2, 1, 1, 0, 0, 0)
    ),
}


def same(found, expected):
    assert set(found) == set(expected)
    for key, tensor in expected.items():
        assert torch.equal(found[key], tensor), key


@pytest.mark.parametrize("config", TINY_UNETS.values(), ids=TINY_UNETS)
def test_unet_names_lead_to_diffusers_and_back(config: UNetConfig):
    state = builders.tiny_unet(config).state_dict()
    theirs = unet_to_diffusers(state, config)
    assert len(theirs) == len(state)
    assert not any(key.startswith(("input_blocks", "output_blocks", "middle_block")) for key in theirs)
    same(unet_from_diffusers(theirs), state)


@pytest.mark.parametrize("config", [builders.TINY_VAE, builders.TINY_VAE_16])
def test_vae_names_lead_to_diffusers_and_back(config):
    state = builders.tiny_vae(config).state_dict()
    theirs = vae_to_diffusers(state, config)
    assert theirs["decoder.mid_block.attentions.0.to_q.weight"].ndim == 2
    same(vae_from_diffusers(theirs), state)


def test_vae_of_old_diffusers_is_read():
    state = builders.tiny_vae().state_dict()
    theirs = vae_to_diffusers(state, builders.TINY_VAE)
    former = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    old = {}
    for key, tensor in theirs.items():
        for new_name, old_name in former.items():
            key = key.replace(f"attentions.0.{new_name}.", f"attentions.0.{old_name}.")
        old[key] = tensor
    assert "encoder.mid_block.attentions.0.query.weight" in old
    same(vae_from_diffusers(old), state)


@pytest.mark.parametrize("config", [builders.TINY_MMDIT, builders.TINY_MMDIT_X])
def test_mmdit_names_lead_to_diffusers_and_back(config):
    state = builders.tiny_mmdit(config).state_dict()
    theirs = mmdit_to_diffusers(state)
    assert not any(key.startswith("joint_blocks") for key in theirs)
    same(mmdit_from_diffusers(theirs), state)


def test_only_the_last_modulations_are_swapped():
    state = builders.tiny_mmdit(builders.TINY_MMDIT).state_dict()
    theirs = mmdit_to_diffusers(state)
    ours = state["final_layer.adaLN_modulation.1.weight"]
    assert torch.equal(theirs["norm_out.linear.weight"], swap_halves(ours))
    assert not torch.equal(theirs["norm_out.linear.weight"], ours)
    last = state["joint_blocks.1.context_block.adaLN_modulation.1.bias"]
    assert torch.equal(theirs["transformer_blocks.1.norm1_context.linear.bias"], swap_halves(last))
    first = state["joint_blocks.0.context_block.adaLN_modulation.1.bias"]
    assert torch.equal(theirs["transformer_blocks.0.norm1_context.linear.bias"], first)


def test_unknown_keys_keep_their_names():
    stray = {"my.stray.weight": torch.zeros(1)}
    unet = unet_to_diffusers(builders.tiny_unet().state_dict(), builders.TINY_UNET)
    assert "my.stray.weight" in unet_from_diffusers(unet | stray)
    assert "my.stray.weight" in mmdit_from_diffusers(mmdit_to_diffusers(builders.tiny_mmdit().state_dict()) | stray)
    assert "my.stray" in clip_from_open_clip({"my.stray": torch.zeros(1)})


def test_clip_names_lead_to_open_clip_and_back():
    state = build_clip(tiny.CLIP_G).state_dict()
    theirs = clip_to_open_clip(state)
    assert len([key for key in theirs if "in_proj" in key]) == 2 * tiny.CLIP_G.layers
    same(clip_from_open_clip(theirs), state)


@pytest.mark.oracle
def test_full_size_networks_have_diffusers_names():
    from diffusers import SD3Transformer2DModel, UNet2DConditionModel

    with torch.device("meta"):
        theirs = UNet2DConditionModel(
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            block_out_channels=(320, 640, 1280),
            transformer_layers_per_block=(1, 2, 10),
            attention_head_dim=(5, 10, 20),
            cross_attention_dim=2048,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
        ).state_dict()
        ours = unet_to_diffusers(UNet(SDXL_UNET).state_dict(), SDXL_UNET)
        assert {k: t.shape for k, t in ours.items()} == {k: t.shape for k, t in theirs.items()}
        config = replace(builders.TINY_MMDIT_X, depth=4, dual_blocks=2)
        theirs = SD3Transformer2DModel(
            patch_size=2,
            in_channels=16,
            out_channels=16,
            num_layers=4,
            attention_head_dim=64,
            num_attention_heads=config.heads,
            joint_attention_dim=config.context_dim,
            caption_projection_dim=config.hidden,
            pooled_projection_dim=config.pooled_dim,
            pos_embed_max_size=config.pos_embed_side,
            dual_attention_layers=(0, 1),
            qk_norm="rms_norm",
        ).state_dict()
        ours = mmdit_to_diffusers(MMDiT(config).state_dict())
        assert {k: t.shape for k, t in ours.items()} == {k: t.shape for k, t in theirs.items()}
