"""Adapter tensors for tests: random numbers of the right shapes, under any name."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor, nn

from backend.adapters.places import Places
from backend.formats.configs import Part
from backend.nn.mmdit import MMDiT
from backend.nn.unet import UNet
from backend.text.encoders import build_clip, build_t5
from tests.checkpoints import tiny
from tests.nn.test_published_keys import SDXL, mmdit_config


def numbers(*shape: int, seed: int = 0, size: float = 0.5) -> Tensor:
    return size * torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def lora(stem: str, weight: Tensor | Sequence[int], rank: int = 4, alpha: float | None = None) -> dict[str, Tensor]:
    """A LoRA module in kohya's endings for a weight (or its shape)."""
    out, *rest = weight.shape if isinstance(weight, Tensor) else weight
    seed = sum(map(ord, stem))
    made = {
        f"{stem}.lora_up.weight": numbers(out, rank, *(1 for _ in rest[1:]), seed=seed),
        f"{stem}.lora_down.weight": numbers(rank, *rest, seed=seed + 1, size=1 / math.sqrt(math.prod(rest))),
    }
    return made | ({} if alpha is None else {f"{stem}.alpha": torch.tensor(alpha)})


def lora_delta(tensors: dict[str, Tensor], stem: str, scale: float = 1.0) -> Tensor:
    """up times down in float64, the shape of a linear weight."""
    up, down = (tensors[f"{stem}.lora_{name}.weight"].double().flatten(1) for name in ("up", "down"))
    return scale * (up @ down)


def in_peft_naming(tensors: dict[str, Tensor], adapter: str = "") -> dict[str, Tensor]:
    """kohya's endings -> PEFT's, with its adapter's name inside where one is given."""
    dot = f".{adapter}" if adapter else ""
    return {
        key.replace(".lora_up.", f".lora_B{dot}.").replace(".lora_down.", f".lora_A{dot}."): tensor
        for key, tensor in tensors.items()
    }


@cache
def sdxl_places() -> Places:
    """Full-size SDXL without memory (its text encoders narrow)."""
    with torch.device("meta"):
        return Places({"denoiser": UNet(SDXL), "clip_l": build_clip(tiny.CLIP_L), "clip_g": build_clip(tiny.CLIP_G)})


@cache
def sd35_places() -> Places:
    """Full-size SD3.5 Medium without memory (its text encoders narrow)."""
    with torch.device("meta"):
        mmdit = MMDiT(mmdit_config(24, 384, qk_norm=True, dual_blocks=13))
        parts: dict[Part, nn.Module] = {"denoiser": mmdit, "clip_l": build_clip(tiny.CLIP_L)}
        return Places(parts | {"clip_g": build_clip(tiny.CLIP_G), "t5": build_t5(tiny.T5)})


def tiny_modules(family: str = "sdxl") -> dict[Part, nn.Module]:
    return tiny.tiny_modules(family)  # type: ignore[arg-type]


def tiny_places(family: str = "sdxl") -> Places:
    return Places(tiny_modules(family))
