"""The two demo checkpoints as data: their networks' sizes, and what their files declare."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from backend.formats.configs import (
    CLIPConfig,
    Defaults,
    Family,
    MMDiTConfig,
    T5Config,
    UNetConfig,
    VAEConfig,
)
from backend.training.vocabulary import Vocabulary


@dataclass(frozen=True)
class Recipe:
    """One demo checkpoint. Vocabulary sizes and token ids are filled in by ``with_vocabulary``."""

    name: Literal["demo-xl", "demo-sd3"]
    family: Family
    denoiser: UNetConfig | MMDiTConfig
    vae: VAEConfig
    kl_weight: float
    clip_l: CLIPConfig
    clip_g: CLIPConfig
    t5: T5Config | None
    defaults: Defaults

    def with_vocabulary(self, vocabulary: Vocabulary) -> Recipe:
        """The same with the token numbers of a trained vocabulary; CLIP-L pads with its end token, CLIP-G with 0."""
        ids = {"vocab_size": vocabulary.clip_size, "bos": vocabulary.bos, "eos": vocabulary.eos}
        return replace(
            self,
            clip_l=replace(self.clip_l, **ids, pad=vocabulary.eos),
            clip_g=replace(self.clip_g, **ids, pad=0),
            t5=None if self.t5 is None else replace(self.t5, vocab_size=vocabulary.t5_size),
        )


_CLIP_L = CLIPConfig(64, 2, 1, 256, 0, 77, 64, "quick_gelu", 0, 0, 0)
_CLIP_G = CLIPConfig(128, 3, 2, 512, 0, 77, 128, "gelu", 0, 0, 0)

RECIPES: Mapping[str, Recipe] = {
    "xl": Recipe(
        name="demo-xl",
        family="sdxl",
        denoiser=UNetConfig(
            in_channels=4,
            out_channels=4,
            model_channels=64,
            channel_mult=(1, 2, 3),
            res_blocks=(1, 1, 1),
            depth_in=(0, 1, 1),
            depth_mid=1,
            depth_out=(1, 1, 1, 1, 0, 0),
            context_dim=64 + 128,
            label_dim=128 + 6 * 256,
        ),
        vae=VAEConfig(4, 16, (1, 2, 4, 8), 1, quant_conv=True, norm_groups=8),
        kl_weight=2e-3,
        clip_l=_CLIP_L,
        clip_g=_CLIP_G,
        t5=None,
        defaults=Defaults(128, 128, 20, 4.0, "dpmpp_2m", "karras", None),
    ),
    "sd3": Recipe(
        name="demo-sd3",
        family="sd3",
        denoiser=MMDiTConfig(
            depth=4,
            hidden=256,
            heads=4,
            in_channels=16,
            out_channels=16,
            patch_size=2,
            context_dim=256,
            pooled_dim=64 + 128,
            pos_embed_side=32,
            qk_norm=True,
            dual_blocks=2,
            mlp_hidden=1024,
        ),
        # The published SD3 layout has no quant_conv. More channels need the weight spread over more numbers.
        vae=VAEConfig(16, 16, (1, 2, 4, 8), 1, quant_conv=False, norm_groups=8),
        kl_weight=5e-3,
        clip_l=_CLIP_L,
        clip_g=_CLIP_G,
        t5=T5Config(256, 2, 4, 64, 512, 0, min_length=24, max_length=256),
        defaults=Defaults(128, 128, 24, 4.0, "euler", "simple", 3.0),
    ),
}
