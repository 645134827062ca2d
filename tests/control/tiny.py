"""Tiny guidance networks of every kind: ours, and diffusers' with random weights."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from backend.formats.control_configs import MMDiTControlConfig, T2IAdapterConfig
from backend.testing.control import CHAINED, CONTROLNET, HINT_WIDTHS, in_stability_naming
from tests import builders

__all__ = ["CHAINED", "CONTROLNET", "HINT_WIDTHS", "in_stability_naming"]

UNION = replace(CONTROLNET, tasks=6, task_layers=1)
T2I_XL = T2IAdapterConfig((32, 64, 64, 64), 16, 3, 2, (2,), is_light=False, kernel=1)
T2I_SD1 = T2IAdapterConfig((32, 64, 64, 64), 8, 3, 2, (1, 2, 3), is_light=False, kernel=1)
T2I_LIGHT = T2IAdapterConfig((32, 64, 64, 64), 8, 3, 4, (1, 2, 3), is_light=True, kernel=3)
JOINT = MMDiTControlConfig(replace(builders.TINY_MMDIT_X, depth=2), 16, "joint")
PARALLEL = MMDiTControlConfig(replace(CHAINED.mmdit, pooled_dim=128), 16, "parallel")


def diffusers_controlnet(*, union: bool = False, **options: Any) -> Any:
    """With the tiny U-Net's input side."""
    from diffusers import ControlNetModel, ControlNetUnionModel

    config = builders.TINY_UNET
    widths = tuple(mult * config.model_channels for mult in config.channel_mult)
    shared: dict[str, Any] = {
        "in_channels": 4,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "block_out_channels": widths,
        "layers_per_block": 1,
        "cross_attention_dim": config.context_dim,
        "transformer_layers_per_block": 1,
        "attention_head_dim": tuple(width // 64 or 1 for width in widths),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": config.label_dim,
        "conditioning_embedding_out_channels": (16, 32, 96, 256),
    }
    if union:
        return ControlNetUnionModel(
            **(shared | {"num_control_type": 6, "num_trans_channel": 32, "num_proj_channel": 32} | options)
        ).eval()
    return ControlNetModel(**(shared | options)).eval()


def diffusers_t2i(config: T2IAdapterConfig) -> Any:
    from diffusers import T2IAdapter

    kind = "light_adapter" if config.is_light else "full_adapter_xl" if config.unshuffle == 16 else "full_adapter"
    channels = list(config.channels[:-1] if config.is_light else config.channels)  # a light one adds its last level
    return T2IAdapter(config.hint_channels, channels, config.res_blocks, config.unshuffle, kind).eval()


def diffusers_mmdit_control(config: MMDiTControlConfig, **options: Any) -> Any:
    from diffusers import SD3ControlNetModel

    mmdit, joint = config.mmdit, config.blocks == "joint"
    return SD3ControlNetModel(
        sample_size=32,
        patch_size=mmdit.patch_size,
        in_channels=mmdit.in_channels,
        num_layers=mmdit.depth,
        attention_head_dim=mmdit.hidden // mmdit.heads,
        num_attention_heads=mmdit.heads,
        joint_attention_dim=mmdit.context_dim if joint else None,
        caption_projection_dim=mmdit.hidden,
        pooled_projection_dim=mmdit.pooled_dim,
        out_channels=mmdit.out_channels,
        pos_embed_max_size=mmdit.pos_embed_side,
        extra_conditioning_channels=config.hint_channels - mmdit.in_channels,
        dual_attention_layers=tuple(range(mmdit.dual_blocks)),
        qk_norm="rms_norm" if mmdit.qk_norm else None,
        pos_embed_type="sincos" if joint else None,
        use_pos_embed=joint,
        **options,
    ).eval()
