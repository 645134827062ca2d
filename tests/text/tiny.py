"""Configs of tiny encoders with the shipped vocabularies, and a checkpoint's facts around them."""

from dataclasses import replace
from pathlib import Path

from backend.formats.configs import (
    CheckpointInfo,
    CLIPConfig,
    Defaults,
    LatentConstants,
    MMDiTConfig,
    Part,
    PartSource,
    T5Config,
)

CLIP_L = CLIPConfig(
    width=32,
    layers=3,
    heads=2,
    intermediate=64,
    vocab_size=49408,
    positions=77,
    projection_dim=24,
    activation="quick_gelu",
    bos=49406,
    eos=49407,
    pad=49407,
)
CLIP_G = replace(CLIP_L, width=48, layers=4, heads=3, activation="gelu", pad=0)
T5 = T5Config(width=32, layers=2, heads=4, d_kv=8, d_ff=64, vocab_size=32128)


def info(**changes) -> CheckpointInfo:
    """An SD3-style checkpoint with all three encoders, as the header would tell it."""
    whole = CheckpointInfo(
        path=Path("tiny.safetensors"),
        name="tiny",
        family="sd3",
        variant="tiny",
        prediction="flow",
        denoiser=MMDiTConfig(2, 128, 2, 16, 16, 2, 64, 48, 24, False, 0, 512),
        vae=None,
        clip_l=CLIP_L,
        clip_g=CLIP_G,
        t5=T5,
        latent=LatentConstants(16, 1.0, 0.0, ((0.0, 0.0, 0.0),) * 16, (0.0, 0.0, 0.0)),
        defaults=Defaults(128, 128, 20, 4.5, "euler", "simple", 3.0),
        size_multiple=16,
        precision="fp32",
        sources={},
        tokenizer_clip=None,
        tokenizer_t5=None,
    )
    return replace(whole, **changes)


def sources(*parts: Part) -> dict[Part, PartSource]:
    """Places of these parts in a file that nobody opens."""
    return {part: PartSource((Path("tiny.safetensors"),), f"{part}.", 1000, "fp32") for part in parts}
