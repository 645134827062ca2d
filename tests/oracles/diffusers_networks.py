"""diffusers' networks for our configs, without weights of ours yet."""

from __future__ import annotations

from typing import Any

from backend.engine.bench_peer import peer_unet as diffusers_unet
from backend.formats.configs import LatentConstants, MMDiTConfig, VAEConfig

__all__ = ["diffusers_mmdit", "diffusers_unet", "diffusers_vae"]


def diffusers_mmdit(config: MMDiTConfig) -> Any:
    from diffusers import SD3Transformer2DModel

    return SD3Transformer2DModel(
        sample_size=32,
        patch_size=config.patch_size,
        in_channels=config.in_channels,
        num_layers=config.depth,
        attention_head_dim=config.hidden // config.heads,
        num_attention_heads=config.heads,
        joint_attention_dim=config.context_dim,
        caption_projection_dim=config.hidden,
        pooled_projection_dim=config.pooled_dim,
        out_channels=config.out_channels,
        pos_embed_max_size=config.pos_embed_side,
        dual_attention_layers=tuple(range(config.dual_blocks)),
        qk_norm="rms_norm" if config.qk_norm else None,
    ).eval()


def diffusers_vae(config: VAEConfig, latent: LatentConstants | None = None) -> Any:
    from diffusers import AutoencoderKL

    levels = len(config.channel_mult)
    scaling: dict[str, Any] = {"scaling_factor": latent.scale, "shift_factor": latent.shift} if latent else {}
    if latent and latent.deviations:
        scaling |= {"latents_mean": list(latent.means), "latents_std": list(latent.deviations), "shift_factor": None}
    return AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * levels,
        up_block_types=["UpDecoderBlock2D"] * levels,
        block_out_channels=[config.channels * mult for mult in config.channel_mult],
        layers_per_block=config.res_blocks,
        latent_channels=config.latent_channels,
        norm_num_groups=config.norm_groups,
        use_quant_conv=config.quant_conv,
        use_post_quant_conv=config.quant_conv,
        **scaling,
    ).eval()
