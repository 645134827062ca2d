"""The SDXL refiner: CLIP-G alone, an aesthetic score in place of the target size (arXiv:2307.01952, section 2.5)."""

from __future__ import annotations

import torch

from backend.diffusion.conditioning import Conditioning
from backend.diffusion.prediction import Prediction
from backend.families.base import Models, Prompts, require_parts
from backend.families.predictions import unet_prediction
from backend.families.sdxl import SIZE_WAVES, size_numbers
from backend.families.text_stack import encode_one_clip
from backend.formats.configs import CheckpointInfo, Part
from backend.nn.layers import sinusoid
from backend.request import GenerationRequest


class SDXLRefiner:
    """SDXL's second denoiser, for the last part of the steps or for img2img alone."""

    def prediction(self, info: CheckpointInfo, request: GenerationRequest) -> Prediction:
        """Eps, or v."""
        return unet_prediction(info, request)

    def text_parts(self, info: CheckpointInfo, request: GenerationRequest) -> tuple[Part, ...]:  # noqa: ARG002
        """CLIP-G."""
        return require_parts(info, ("clip_g",))

    def encode(
        self, models: Models, info: CheckpointInfo, request: GenerationRequest, prompts: Prompts, *, negative: bool
    ) -> Conditioning:
        """CLIP-G's penultimate layer; its projected pooled vector, then sizes and score.

        An empty negative prompt is all zeros, as for the base; sizes and score stay.
        """
        clip = encode_one_clip(models, info, request, "clip_g", prompts["clip_g"])
        context, pooled = clip.hidden.float(), clip.pooled_projected.float()
        if negative and not request.negative_prompt.strip():
            context, pooled = torch.zeros_like(context), torch.zeros_like(pooled)
        numbers = torch.tensor(scored_numbers(request, negative=negative), dtype=torch.float32, device=pooled.device)
        waves = sinusoid(numbers, SIZE_WAVES).float().flatten()[None]  # (5, 256) -> (1, 1280)
        return Conditioning(context, torch.cat([pooled, waves], dim=-1))


def scored_numbers(request: GenerationRequest, *, negative: bool) -> tuple[float, float, float, float, float]:
    """Original height and width, crop top and left, and the aesthetic score of the prompt or the negative one."""
    height, width, top, left, *_ = size_numbers(request)
    return (height, width, top, left, request.negative_aesthetic_score if negative else request.aesthetic_score)
