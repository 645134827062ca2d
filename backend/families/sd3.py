"""SD3 and SD3.5: MMDiT on rectified flow; CLIP-L, CLIP-G and, if the request wants it, T5 (arXiv:2403.03206)."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from transformers.models.t5.modeling_t5 import T5EncoderModel

from backend.diffusion.conditioning import Conditioning
from backend.diffusion.prediction import FlowPrediction, Prediction
from backend.families.base import Models, Prompts, require_parts
from backend.families.text_stack import encode_clip_pair
from backend.formats.configs import CheckpointInfo, Part, T5Config
from backend.request import GenerationRequest
from backend.text.encode import encode_t5
from backend.text.tokenize import t5_tokenizer

DEFAULT_SHIFT = 3.0


class SD3:
    """SD3 Medium, SD3.5 Medium and Large, and narrow ones of the same layout."""

    def prediction(self, info: CheckpointInfo, request: GenerationRequest) -> Prediction:
        """Rectified flow with the request's shift."""
        return FlowPrediction(request.shift or info.defaults.shift or DEFAULT_SHIFT)

    def text_parts(self, info: CheckpointInfo, request: GenerationRequest) -> tuple[Part, ...]:
        """Both CLIP encoders, and T5 where the file has one and the request uses it."""
        clips = require_parts(info, ("clip_l", "clip_g"))
        return (*clips, "t5") if request.use_t5 and info.t5 is not None else clips

    def encode(
        self, models: Models, info: CheckpointInfo, request: GenerationRequest, prompts: Prompts, *, negative: bool
    ) -> Conditioning:
        """CLIP tokens padded with zeros to T5's width, then T5's tokens; pooled L (unprojected) and G (projected).

        Without T5 there are the CLIP tokens alone, or zeros in T5's place if the request wants them. An empty negative
        prompt is encoded like any other.
        """
        del negative
        pair = encode_clip_pair(models, info, request, prompts)
        width = info.denoiser.context_dim
        context = F.pad(pair.tokens.float(), (0, width - pair.tokens.shape[-1]))  # (1, 77 n, width)
        if "t5" in prompts and info.t5 is not None:
            model = cast("T5EncoderModel", models["t5"])
            tokens = encode_t5(
                model,
                t5_tokenizer(info),
                info.t5,
                prompts["t5"],
                emphasis=request.emphasis_t5,
                full_length=request.t5_full_length,
            )
            context = torch.cat([context, tokens.float()], dim=1)
        elif request.t5_zeros:
            length = (info.t5 or T5Config).max_length
            context = F.pad(context, (0, 0, 0, length))  # (1, 77 n + 256, width)
        pooled = torch.cat([pair.clip_l.pooled_unprojected, pair.clip_g.pooled_projected], dim=-1)
        return Conditioning(context, pooled.float())
