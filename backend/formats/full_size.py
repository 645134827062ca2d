"""The published models at their true sizes, as configurations: what a file of them holds, without having one.

Sources: the published files' own headers (tests/headers), which the tests hold this against.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from backend.formats.configs import CLIPConfig, Family, MMDiTConfig, Part, T5Config, UNetConfig, VAEConfig
from backend.formats.expected import Config, Shapes, expected, expected_open_clip
from backend.formats.layout import OPEN_CLIP_PARTS, PREFIXES

_CLIP_L = CLIPConfig(768, 12, 12, 3072, 49408, 77, 768, "quick_gelu", bos=49406, eos=49407, pad=49407)
_CLIP_L_BARE = CLIPConfig(768, 12, 12, 3072, 49408, 77, None, "quick_gelu", bos=49406, eos=49407, pad=49407)
_CLIP_G = CLIPConfig(1280, 32, 20, 5120, 49408, 77, 1280, "gelu", bos=49406, eos=49407, pad=0)
_T5_XXL = T5Config(width=4096, layers=24, heads=64, d_kv=64, d_ff=10240, vocab_size=32128)
SDXL_UNET = UNetConfig(
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
_SDXL_VAE = VAEConfig(latent_channels=4, channels=128, channel_mult=(1, 2, 4, 4), res_blocks=2, quant_conv=True)
_SD3_VAE = VAEConfig(latent_channels=16, channels=128, channel_mult=(1, 2, 4, 4), res_blocks=2, quant_conv=False)


def _mmdit(depth: int, *, side: int, dual_blocks: int) -> MMDiTConfig:
    """SD3.5's MMDiT: as many heads of 64 as blocks."""
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
        qk_norm=True,
        dual_blocks=dual_blocks,
        mlp_hidden=4 * 64 * depth,
    )


@dataclass(frozen=True)
class FullSize:
    """A published all-in-one file.

    Attributes:
        scaled: parts whose matrices are float8 with a scale each; everything else is half precision.
    """

    family: Family
    parts: Mapping[Part, Config]
    scaled: frozenset[Part] = frozenset()

    def tensors(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Every tensor by its name in the file: number format and shape, in the order of the parts."""
        out: dict[str, tuple[str, tuple[int, ...]]] = {}
        for part, config in self.parts.items():
            prefix = PREFIXES[self.family][part]
            for key, shape in self._shapes(part, config).items():
                is_scaled = part in self.scaled and len(shape) == 2 and key.endswith(".weight")
                out[prefix + key] = ("F8_E4M3" if is_scaled else "F16", shape)
                if is_scaled:
                    out[prefix + key.removesuffix("weight") + "scale_weight"] = ("F32", ())
            if part in self.scaled:
                out[prefix + "scaled_fp8"] = ("F8_E4M3", (0,))
        return out

    def _shapes(self, part: Part, config: Config) -> Shapes:
        if (self.family, part) in OPEN_CLIP_PARTS and isinstance(config, CLIPConfig):
            return expected_open_clip(config)
        return expected(config)


FULL_SIZES: Mapping[str, FullSize] = {
    "sdxl": FullSize("sdxl", {"denoiser": SDXL_UNET, "vae": _SDXL_VAE, "clip_l": _CLIP_L_BARE, "clip_g": _CLIP_G}),
    "sd35-medium": FullSize(
        "sd3",
        {
            "denoiser": _mmdit(24, side=384, dual_blocks=13),
            "vae": _SD3_VAE,
            "clip_l": _CLIP_L,
            "clip_g": _CLIP_G,
            "t5": _T5_XXL,
        },
    ),
    "sd35-large-fp8": FullSize(
        "sd3",
        {
            "denoiser": _mmdit(38, side=192, dual_blocks=0),
            "vae": _SD3_VAE,
            "clip_l": _CLIP_L,
            "clip_g": _CLIP_G,
            "t5": _T5_XXL,
        },
        scaled=frozenset({"denoiser", "t5"}),
    ),
}


def weight_spread(name: str, shape: tuple[int, ...]) -> tuple[float, float]:
    """Mean and standard deviation of random weights that keep the size of what passes through them."""
    if len(shape) > 1:
        return 0.0, 1 / math.sqrt(math.prod(shape[1:]))
    return (1.0, 0.1) if name.endswith("weight") else (0.0, 0.05)
