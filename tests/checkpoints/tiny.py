"""Tiny whole checkpoints of both families, written with the real writer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from torch import nn

from backend.checkpoints.save import easel_metadata, write_checkpoint
from backend.formats import constants
from backend.formats.configs import CLIPConfig, Defaults, Family, Part, T5Config
from backend.text.encoders import build_clip, build_t5
from tests import builders

CLIP_L = CLIPConfig(64, 2, 1, 128, 300, 77, None, "quick_gelu", bos=298, eos=299, pad=299)
CLIP_G = CLIPConfig(128, 3, 2, 256, 300, 77, 128, "gelu", bos=298, eos=299, pad=0)
T5 = T5Config(width=256, layers=2, heads=4, d_kv=64, d_ff=320, vocab_size=400, min_length=32, max_length=64)
DEFAULTS = Defaults(128, 128, 20, 4.0, "euler", "normal", None)


def tiny_modules(family: Family, seed: int = 0) -> dict[Part, nn.Module]:
    """Random-weight modules of every part that the family has."""
    if family == "sdxl":
        modules: dict[Part, nn.Module] = {
            "denoiser": builders.tiny_unet(seed=seed),
            "vae": builders.tiny_vae(seed=seed),
            "clip_l": build_clip(CLIP_L),
            "clip_g": build_clip(CLIP_G),
        }
    else:
        modules = {
            "denoiser": builders.tiny_mmdit(seed=seed),
            "vae": builders.tiny_vae(builders.TINY_VAE_16, seed=seed),
            "clip_l": build_clip(replace(CLIP_L, projection_dim=64)),
            "clip_g": build_clip(CLIP_G),
            "t5": build_t5(T5),
        }
    for number, module in enumerate(modules.values()):
        builders.randomise(module, seed + number)
    return modules


def tiny_metadata(family: Family) -> dict[str, str]:
    """The header fields that such a checkpoint needs."""
    sdxl = family == "sdxl"
    return easel_metadata(
        denoiser=builders.TINY_UNET if sdxl else builders.TINY_MMDIT_X,
        vae=builders.TINY_VAE if sdxl else builders.TINY_VAE_16,
        latent=replace(constants.SDXL_LATENT, scale=0.5) if sdxl else replace(constants.SD3_LATENT, scale=0.25),
        clip_l=CLIP_L,
        clip_g=CLIP_G,
        t5=None if sdxl else T5,
        defaults=DEFAULTS if sdxl else replace(DEFAULTS, shift=3.0),
        tokenizer_clip='{"a": 1}',
        tokenizer_t5=None if sdxl else '{"b": 2}',
    )


def write_tiny(path: Path, family: Family, seed: int = 0, **options: object) -> dict[Part, nn.Module]:
    """Write a tiny checkpoint and return the modules that went into it."""
    modules = tiny_modules(family, seed)
    write_checkpoint(path, family=family, modules=modules, metadata=tiny_metadata(family), **options)  # type: ignore[arg-type]
    return modules
