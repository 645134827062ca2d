"""Tiny whole checkpoints of every family, written with the real writer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from backend.checkpoints.save import easel_metadata, write_checkpoint
from backend.formats import constants
from backend.formats.configs import (
    CLIPConfig,
    Defaults,
    Family,
    LatentConstants,
    MMDiTConfig,
    Part,
    T5Config,
    UNetConfig,
    VAEConfig,
)
from backend.nn.mmdit import MMDiT
from backend.nn.unet import UNet
from backend.nn.vae import VAE
from backend.testing import networks
from backend.text.encoders import build_clip, build_t5

CLIP_L = CLIPConfig(64, 2, 1, 128, 300, 77, None, "quick_gelu", bos=298, eos=299, pad=299)
CLIP_G = CLIPConfig(128, 3, 2, 256, 300, 77, 128, "gelu", bos=298, eos=299, pad=0)
T5 = T5Config(width=256, layers=2, heads=4, d_kv=64, d_ff=320, vocab_size=400, min_length=32, max_length=64)
CLIP_H = replace(CLIP_G, layers=2)
LATENT = replace(constants.SDXL_LATENT, scale=0.5)
DEFAULTS = Defaults(128, 128, 20, 4.0, "euler", "normal", None)


@dataclass(frozen=True)
class Tiny:
    """What the tiny checkpoint of a family is made of."""

    denoiser: UNetConfig | MMDiTConfig
    encoders: Mapping[Part, Any]  # CLIPConfig or T5Config
    vae: VAEConfig = networks.TINY_VAE
    latent: LatentConstants = LATENT
    defaults: Defaults = DEFAULTS


TINY: Mapping[Family, Tiny] = {
    "sdxl": Tiny(networks.TINY_UNET, {"clip_l": CLIP_L, "clip_g": CLIP_G}),
    "sdxl_refiner": Tiny(networks.TINY_UNET_REFINER, {"clip_g": CLIP_G}),
    "sd1": Tiny(networks.TINY_UNET_SD1, {"clip_l": CLIP_L}),
    "sd2": Tiny(networks.TINY_UNET_SD2, {"clip_h": CLIP_H}),
    "sd3": Tiny(
        networks.TINY_MMDIT_X,
        {"clip_l": replace(CLIP_L, projection_dim=64), "clip_g": CLIP_G, "t5": T5},
        networks.TINY_VAE_16,
        replace(constants.SD3_LATENT, scale=0.25),
        replace(DEFAULTS, shift=3.0),
    ),
}


def tiny_modules(family: Family, seed: int = 0) -> dict[Part, nn.Module]:
    """Random-weight modules of every part that the family has."""
    row = TINY[family]
    modules: dict[Part, nn.Module] = {
        "denoiser": UNet(row.denoiser) if isinstance(row.denoiser, UNetConfig) else MMDiT(row.denoiser),
        "vae": VAE(row.vae),
    }
    for part, config in row.encoders.items():
        modules[part] = build_t5(config) if isinstance(config, T5Config) else build_clip(config)
    for number, module in enumerate(modules.values()):
        networks.randomise(module, seed + number)
    return modules


def tiny_metadata(family: Family) -> dict[str, str]:
    """The header fields that such a checkpoint needs."""
    row = TINY[family]
    return easel_metadata(
        denoiser=row.denoiser,
        vae=row.vae,
        latent=row.latent,
        defaults=row.defaults,
        tokenizer_clip='{"a": 1}',
        tokenizer_t5='{"b": 2}' if "t5" in row.encoders else None,
        **row.encoders,
    )


def tiny_checkpoint(
    path: Path, family: Family, seed: int = 0, denoiser: UNetConfig | None = None, **options: object
) -> Path:
    """Write a whole tiny checkpoint (6 MB) that generates pictures; ``options`` go to ``write_checkpoint``.

    ``denoiser``: another U-Net than the family's tiny one.
    """
    metadata = tiny_metadata(family) | {"easel.tokenizer_clip": networks.tiny_clip_tokenizer()}
    if family == "sd3":
        metadata["easel.tokenizer_t5"] = networks.tiny_t5_tokenizer()
    modules = tiny_modules(family, seed) | (
        {} if denoiser is None else {"denoiser": networks.tiny_unet(denoiser, seed)}
    )
    write_checkpoint(path, family=family, modules=modules, metadata=metadata, **options)  # type: ignore[arg-type]
    return path


def write_tiny(path: Path, family: Family, seed: int = 0, **options: object) -> dict[Part, nn.Module]:
    """Write a tiny checkpoint and return the modules that went into it."""
    modules = tiny_modules(family, seed)
    write_checkpoint(path, family=family, modules=modules, metadata=tiny_metadata(family), **options)  # type: ignore[arg-type]
    return modules
