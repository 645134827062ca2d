"""Tiny files: an adapter of every kind by its published keys, and vision encoders as transformers writes them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from backend.checkpoints.save import write_tensors
from tests.builders import TINY_MMDIT, TINY_UNET, TINY_UNET_SD1, randomise

CLIP = {"hidden_size": 128, "intermediate_size": 256, "projection_dim": 96, "num_hidden_layers": 3,
        "num_attention_heads": 2, "image_size": 32, "patch_size": 8, "hidden_act": "gelu"}  # fmt: skip
SIGLIP = {"hidden_size": 192, "intermediate_size": 256, "num_hidden_layers": 3, "num_attention_heads": 3,
          "image_size": 32, "patch_size": 8}  # fmt: skip
DIM = 128  # of latents
DEPTH = 4  # of resamplers, which diffusers does not read off a file

Shapes = Mapping[str, tuple[int, ...]]


def clip() -> Any:
    """transformers' network of ``tiny-clip``."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    return randomise(CLIPVisionModelWithProjection(CLIPVisionConfig(**CLIP)), seed=3)


def siglip() -> Any:
    """transformers' network of ``tiny-siglip``."""
    from transformers import SiglipVisionConfig, SiglipVisionModel

    return randomise(SiglipVisionModel(SiglipVisionConfig(**SIGLIP)), seed=4)


def adapters() -> dict[str, dict[str, Tensor]]:
    """Every tiny adapter by its name."""
    xl = _unet_layers(7, 64, TINY_UNET.context_dim)
    joint = _joint_layers(TINY_MMDIT.depth, TINY_MMDIT.hidden)
    made: dict[str, Shapes] = {
        "xl": _ordinary(96, 192) | xl,
        "xl-plus": _resampler(128, 192) | xl,
        "xl-full": _full(128, 192) | xl,
        "xl-wide": _ordinary(80, 192) | xl,  # reads what no encoder here gives
        "sd1": _ordinary(96, TINY_UNET_SD1.context_dim)
        | {
            key: shape
            for number, dim in enumerate((32, 32, 32, 32, 32, 64))
            for key, shape in _unet_layer(2 * number + 1, dim, TINY_UNET_SD1.context_dim).items()
        },
        "sd3": _time_resampler(192, TINY_MMDIT.hidden) | joint,
        "face": {"image_proj.proj.0.weight": (8, 8), "image_proj.norm.weight": (8,),
                 "ip_adapter.0.to_q_lora.down.weight": (4, 8)},
        "half": {key: shape for key, shape in (_ordinary(96, 192) | xl).items() if key != "image_proj.norm.bias"},
    }  # fmt: skip
    return {name: _random(shapes, seed) for seed, (name, shapes) in enumerate(made.items())}


def write_files(folder: Path) -> None:
    """models/ip_adapter and models/clip_vision."""
    for name, tensors in adapters().items():
        _write(folder / "ip_adapter" / f"{name}.safetensors", tensors)
    _write(folder / "clip_vision" / "tiny-clip.safetensors", clip().state_dict())
    published = {f"vision_model.{key}": tensor for key, tensor in siglip().state_dict().items()}
    _write(folder / "clip_vision" / "tiny-siglip.safetensors", published | {"logit_scale": torch.ones(1)})


def nested(name: str) -> dict[str, dict[str, Tensor]]:
    """An adapter as diffusers takes it."""
    halves: dict[str, dict[str, Tensor]] = {"image_proj": {}, "ip_adapter": {}}
    for key, tensor in adapters()[name].items():
        half, _, rest = key.partition(".")
        halves[half][rest] = tensor
    return halves


def _write(path: Path, tensors: Mapping[str, Tensor]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_tensors(path, {key: tensor.contiguous() for key, tensor in tensors.items()}, {})


def _random(shapes: Shapes, seed: int) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {key: _drawn(key, shape, draw) for key, shape in shapes.items()}


def _drawn(key: str, shape: tuple[int, ...], draw: torch.Generator) -> Tensor:
    """Weights keep the size of what passes, norms scale by about one, and what attentions read is strong."""
    noise = torch.randn(shape, generator=draw)
    if len(shape) > 1:
        return noise / shape[-1] ** 0.5 * (3 if "to_v_ip" in key else 1)
    return 1 + 0.1 * noise if key.endswith("weight") else 0.1 * noise


def _linear(name: str, out: int, width: int) -> Shapes:
    return {f"{name}.weight": (out, width), f"{name}.bias": (out,)}


def _norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _unet_layer(number: int, dim: int, width: int) -> dict[str, tuple[int, ...]]:
    return {f"ip_adapter.{number}.to_k_ip.weight": (dim, width), f"ip_adapter.{number}.to_v_ip.weight": (dim, width)}


def _unet_layers(count: int, dim: int, width: int) -> dict[str, tuple[int, ...]]:
    return {key: shape for number in range(count) for key, shape in _unet_layer(2 * number + 1, dim, width).items()}


def _joint_layers(count: int, hidden: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for number in range(count):
        shapes |= _unet_layer(number, hidden, hidden)
        shapes |= _linear(f"ip_adapter.{number}.norm_ip.linear", 2 * hidden, DIM)
        shapes |= {f"ip_adapter.{number}.{norm}.weight": (64,) for norm in ("norm_q", "norm_k", "norm_ip_k")}
    return shapes


def _ordinary(width: int, token: int) -> dict[str, tuple[int, ...]]:
    return {**_linear("image_proj.proj", 4 * token, width), **_norm("image_proj.norm", token)}


def _full(width: int, token: int) -> dict[str, tuple[int, ...]]:
    return {**_linear("image_proj.proj.0", width, width), **_linear("image_proj.proj.2", token, width),
            **_norm("image_proj.proj.3", token)}  # fmt: skip


def _resampler(width: int, token: int, tokens: int = 6) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {"image_proj.latents": (1, tokens, DIM)}
    shapes |= _linear("image_proj.proj_in", DIM, width)
    for number in range(DEPTH):
        layer = f"image_proj.layers.{number}"
        shapes |= {**_norm(f"{layer}.0.norm1", DIM), **_norm(f"{layer}.0.norm2", DIM)}
        shapes |= {f"{layer}.0.to_q.weight": (DIM, DIM), f"{layer}.0.to_kv.weight": (2 * DIM, DIM),
                   f"{layer}.0.to_out.weight": (DIM, DIM)}  # fmt: skip
        shapes |= {**_norm(f"{layer}.1.0", DIM), f"{layer}.1.1.weight": (4 * DIM, DIM),
                   f"{layer}.1.3.weight": (DIM, 4 * DIM)}  # fmt: skip
    return {**shapes, **_linear("image_proj.proj_out", token, DIM), **_norm("image_proj.norm_out", token)}


def _time_resampler(width: int, token: int) -> dict[str, tuple[int, ...]]:
    shapes = _resampler(width, token)
    for number in range(DEPTH):
        shapes |= _linear(f"image_proj.layers.{number}.2.1", 4 * DIM, DIM)
    return {**shapes, **_linear("image_proj.time_embedding.linear_1", DIM, 32),
            **_linear("image_proj.time_embedding.linear_2", DIM, DIM)}  # fmt: skip
