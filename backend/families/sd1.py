"""SD1 and SD2: one CLIP encoder with its final norm, no size numbers, eps or v (arXiv:2112.10752)."""

from __future__ import annotations

from dataclasses import dataclass

from backend.diffusion.conditioning import Conditioning
from backend.diffusion.prediction import Prediction
from backend.families.base import Models, Prompts, require_parts
from backend.families.predictions import unet_prediction
from backend.families.text_stack import encode_one_clip
from backend.formats.configs import CheckpointInfo, Part
from backend.request import GenerationRequest


@dataclass(frozen=True)
class SD1:
    """Checkpoints whose U-Net reads the tokens of one encoder: CLIP-L (SD1) or CLIP-H (SD2).

    The final norm acts on whichever layer is chosen: SD1 takes the last one, "clip skip 2" the one before it, which is
    SD2's own. (A1111 keeps SD2 at its own layer whatever the setting says.)
    """

    encoder: Part

    def prediction(self, info: CheckpointInfo, request: GenerationRequest) -> Prediction:
        """Eps or v."""
        return unet_prediction(info, request)

    def text_parts(self, info: CheckpointInfo, request: GenerationRequest) -> tuple[Part, ...]:  # noqa: ARG002
        """The one encoder."""
        return require_parts(info, (self.encoder,))

    def encode(
        self, models: Models, info: CheckpointInfo, request: GenerationRequest, prompts: Prompts, *, negative: bool
    ) -> Conditioning:
        """The tokens alone; an empty negative prompt is encoded like any other."""
        del negative
        features = encode_one_clip(models, info, request, self.encoder, prompts[self.encoder], final_norm=True)
        return Conditioning(features.hidden.float(), None)
