"""A vision encoder's file: which one it is by shapes, whether it fits an adapter, and transformers' network of it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from backend.api import ModelUnsupported
from extensions.ip_adapter.adapter import AdapterInfo, Shapes, assign, size_of
from extensions.ip_adapter.preprocessing import CLIP_LOOK, SIGLIP_LOOK, Look

_ROOT = "vision_model."
_PATCHES = "vision_model.embeddings.patch_embedding.weight"
_PROJECTION = "visual_projection.weight"
_LAYER = re.compile(r"^vision_model\.encoder\.layers\.(\d+)\.")
#: Of a file that holds more: the text half, what joins both, and a head that no adapter reads.
_NOT_READ = re.compile(r"^(text_model\.|text_projection\.|logit_|vision_model\.embeddings\.position_ids$)")
_HEAD = re.compile(r"^vision_model\.head\.")

#: Width -> heads, which no shape tells; others have heads 64 wide. ViT-H, SigLIP so400m and ViT-bigG have 16.
_HEADS: Mapping[int, int] = {1152: 16, 1280: 16, 1664: 16}
#: Widths of OpenAI's own encoders (ViT-B, ViT-L), whose activation is another one.
_QUICK = (768, 1024)


@dataclass(frozen=True)
class VisionInfo:
    """What a file's shapes tell; ``projected`` is the width of the one vector, None where there is none."""

    is_siglip: bool
    width: int
    projected: int | None
    intermediate: int
    layers: int
    patch: int
    side: int

    @property
    def look(self) -> Look:
        """How it sees."""
        return SIGLIP_LOOK if self.is_siglip else CLIP_LOOK

    def fits(self, adapter: AdapterInfo) -> bool:
        """Whether it gives what an adapter reads."""
        return adapter.width == (self.width if adapter.kind.reads == "states" else self.projected)


class Vision(nn.Module):
    """A vision encoder at work; ``network`` is transformers'."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def embeds(self, pixels: Tensor) -> Tensor:
        """(B, 3, side, side) -> the projected vector, (B, projected)."""
        return self.network(pixels).image_embeds

    def states(self, pixels: Tensor) -> Tensor:
        """(B, 3, side, side) -> the tokens before the last layer, (B, T, width)."""
        return self.network(pixels, output_hidden_states=True).hidden_states[-2]


def read_vision(shapes: Shapes) -> VisionInfo:
    """What a vision encoder's file is.

    Raises:
        ModelUnsupported: no encoder in transformers' naming; the sentence begins after the file's name.
    """
    if _PATCHES not in shapes:
        raise ModelUnsupported(
            "is no vision encoder that can be read.",
            "Choose one in transformers' naming (vision_model.embeddings...), as IP-Adapters are published with.",
            field="extensions",
        )
    is_siglip = "vision_model.embeddings.patch_embedding.bias" in shapes
    width, patch = size_of(shapes, _PATCHES), size_of(shapes, _PATCHES, 3)
    positions = size_of(shapes, "vision_model.embeddings.position_embedding.weight") - (0 if is_siglip else 1)
    if width % _heads(width):
        raise ModelUnsupported(f"is {width} wide; encoders of that size are not known.", field="extensions")
    return VisionInfo(
        is_siglip=is_siglip,
        width=width,
        projected=size_of(shapes, _PROJECTION) if _PROJECTION in shapes else None,
        intermediate=size_of(shapes, "vision_model.encoder.layers.0.mlp.fc1.weight"),
        layers=len({match[1] for key in shapes if (match := _LAYER.match(key))}),
        patch=patch,
        side=math.isqrt(positions) * patch,
    )


def build_vision(tensors: Mapping[str, Tensor]) -> nn.Module:
    """The network of a file's tensors. Raises ``ModelUnsupported``: as ``read_vision``, or keys are missing or left."""
    info = read_vision({key: tuple(tensor.shape) for key, tensor in tensors.items()})
    kept = {key: tensor for key, tensor in tensors.items() if not _NOT_READ.match(key)}
    if info.is_siglip:
        kept = {key.removeprefix(_ROOT): tensor for key, tensor in kept.items() if not _HEAD.match(key)}
    with torch.device("meta"):
        network = _siglip(info) if info.is_siglip else _clip(info)
    assign(network, kept)
    for module in network.modules():  # numbers of the positions, which no file need have
        for name, ids in module.named_buffers(recurse=False):
            module.register_buffer(name, torch.arange(ids.shape[-1])[None], persistent=False)
    return Vision(network)


def _clip(info: VisionInfo) -> nn.Module:
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    if info.projected is None:
        raise ModelUnsupported(
            "has no visual_projection.", "Choose the whole encoder, as it was published.", field="extensions"
        )
    activation = "quick_gelu" if info.width in _QUICK else "gelu"
    config = CLIPVisionConfig(projection_dim=info.projected, hidden_act=activation, **_sizes(info))
    return CLIPVisionModelWithProjection(config)


def _siglip(info: VisionInfo) -> nn.Module:
    from transformers import SiglipVisionConfig, SiglipVisionModel

    config = SiglipVisionConfig(**_sizes(info))
    config.vision_use_head = False
    return SiglipVisionModel(config)


def _heads(width: int) -> int:
    return _HEADS.get(width, max(1, width // 64))


def _sizes(info: VisionInfo) -> dict[str, Any]:
    return {
        "hidden_size": info.width,
        "intermediate_size": info.intermediate,
        "num_hidden_layers": info.layers,
        "num_attention_heads": _heads(info.width),
        "image_size": info.side,
        "patch_size": info.patch,
    }
