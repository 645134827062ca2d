"""diffusers' U-Net for our config, the peer of ``easel bench --against diffusers``; no generation comes near it.

diffusers belongs to the test extra: it is imported here, when it is asked for, and nowhere else outside the tests.
"""

from __future__ import annotations

from typing import Any

from backend.errors import BadRequest
from backend.formats.configs import UNetConfig

SIZE_WAVES = 256  # sinusoid width of each size number
SIZE_NUMBERS = 6


def require_diffusers() -> str:
    """diffusers' version.

    Raises:
        BadRequest: with the command that installs it, if it is not there.
    """
    try:
        import diffusers
    except ImportError:
        raise BadRequest(
            "diffusers, the peer of this comparison, is not installed.",
            "Install the test extra: pip install -e .[test]",
        ) from None
    return diffusers.__version__


def peer_unet(config: UNetConfig) -> Any:
    """``UNet2DConditionModel`` with random weights, for any U-Net that every level treats alike, in eval mode."""
    from diffusers import UNet2DConditionModel

    levels = len(config.channel_mult)
    starts = [sum(config.res_blocks[:level]) for level in range(levels)]
    depths = [config.depth_in[start] for start in starts]
    widths = [config.model_channels * mult for mult in config.channel_mult]
    extra: dict[str, Any] = {}
    if config.label_dim is not None:
        extra = {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": SIZE_WAVES,
            "projection_class_embeddings_input_dim": config.label_dim,
        }
    return UNet2DConditionModel(
        in_channels=config.in_channels,
        out_channels=config.out_channels,
        block_out_channels=widths,
        layers_per_block=config.res_blocks[0],
        down_block_types=["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in depths],
        up_block_types=["CrossAttnUpBlock2D" if depth else "UpBlock2D" for depth in reversed(depths)],
        transformer_layers_per_block=[depth or 1 for depth in depths],
        # diffusers calls the number of heads "attention_head_dim" (its issue 2011)
        attention_head_dim=[config.heads or max(1, width // (config.head_dim or width)) for width in widths],
        cross_attention_dim=config.context_dim,
        use_linear_projection=config.linear_projection,
        norm_num_groups=config.norm_groups,
        **extra,
    ).eval()
