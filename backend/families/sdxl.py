"""SDXL: two CLIP encoders side by side, size numbers beside the pooled text, eps or v (arXiv:2307.01952)."""

from __future__ import annotations

import torch

from backend.diffusion.conditioning import Conditioning
from backend.diffusion.prediction import Prediction
from backend.families.base import Models, Prompts, require_parts
from backend.families.predictions import unet_prediction
from backend.families.text_stack import encode_clip_pair
from backend.formats.configs import CheckpointInfo, Part
from backend.nn.layers import sinusoid
from backend.request import GenerationRequest

SIZE_WAVES = 256  # sinusoid width of each of the six size numbers


class SDXL:
    """SDXL base checkpoints and narrow ones of the same layout."""

    def prediction(self, info: CheckpointInfo, request: GenerationRequest) -> Prediction:
        """Eps, v, or EDM's kinds (CosXL, Playground 2.5)."""
        return unet_prediction(info, request)

    def text_parts(self, info: CheckpointInfo, request: GenerationRequest) -> tuple[Part, ...]:  # noqa: ARG002
        """Both CLIP encoders."""
        return require_parts(info, ("clip_l", "clip_g"))

    def encode(
        self, models: Models, info: CheckpointInfo, request: GenerationRequest, prompts: Prompts, *, negative: bool
    ) -> Conditioning:
        """Penultimate layers side by side; CLIP-G's projected pooled vector, then the size numbers.

        An empty negative prompt is all zeros, tokens and pooled text alike, as A1111 does; the sizes stay.
        """
        pair = encode_clip_pair(models, info, request, prompts)
        context, pooled = pair.tokens.float(), pair.clip_g.pooled_projected.float()
        if negative and not request.negative_prompt.strip():
            context, pooled = torch.zeros_like(context), torch.zeros_like(pooled)
        sizes = torch.tensor(size_numbers(request), dtype=torch.float32, device=pooled.device)
        waves = sinusoid(sizes, SIZE_WAVES).float().flatten()[None]  # (6, 256) -> (1, 1536)
        return Conditioning(context, torch.cat([pooled, waves], dim=-1))


def size_numbers(request: GenerationRequest) -> tuple[int, int, int, int, int, int]:
    """Original height and width, crop top and left, target height and width; unset ones are the picture's."""
    width, height = request.width or 0, request.height or 0
    return (
        height if request.original_height is None else request.original_height,
        width if request.original_width is None else request.original_width,
        request.crop_top,
        request.crop_left,
        height if request.target_height is None else request.target_height,
        width if request.target_width is None else request.target_width,
    )
