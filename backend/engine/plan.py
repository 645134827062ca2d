"""What a job will load, need and take, told before it runs."""

from __future__ import annotations

from collections.abc import Sequence

from backend.engine.models import ModelManager
from backend.engine.parts import PartKey
from backend.events import Plan
from backend.formats.configs import CheckpointInfo, UNetConfig, VAEConfig
from backend.request import GenerationRequest

# Bytes of activations, fitted to SPEED.md's figures: the VAE's decoder at 1024x1024 with 128 channels takes 3.75 GiB
# in float32, 7.5 maps of its first width at full resolution.
_VAE_MAPS = 7.5
_UNET_MAPS = 60
_MMDIT_MAPS = 30


class Speeds:
    """Seconds of one network call for one megapixel of picture, as measured on this machine since the start."""

    def __init__(self) -> None:
        self._rates: dict[str, float] = {}

    def learn(self, checkpoint: str, calls: int, pixels: int, seconds: float) -> None:
        """Note a finished batch: the latest measurement counts half."""
        if calls and pixels:
            rate = seconds / (calls * pixels / 1e6)
            self._rates[checkpoint] = (self._rates.get(checkpoint, rate) + rate) / 2

    def guess(self, calls: Sequence[tuple[str, int]], pixels: int) -> float | None:
        """Seconds for each checkpoint's calls at so many pixels; None before the first measurement of one of them."""
        rates = [self._rates.get(checkpoint) for checkpoint, _ in calls]
        known = [rate * count * pixels / 1e6 for rate, (_, count) in zip(rates, calls, strict=True) if rate is not None]
        return sum(known) if len(known) == len(calls) else None


def make_plan(
    manager: ModelManager,
    request: GenerationRequest,
    parts: Sequence[PartKey],
    *,
    switched_off: Sequence[PartKey],
    activations: int,
    copies: int = 0,
    calls: Sequence[tuple[str, int]],
    guidance: str,
    speeds: Speeds,
) -> Plan:
    """The plan of a resolved request.

    Args:
        parts: every part that the job uses, in order of use.
        switched_off: residents that leave because the request does without them.
        activations: bytes beside the weights (``activation_bytes``).
        copies: bytes of weights that are kept for adapters which come and go.
        calls: by checkpoint, network calls of the whole job, an image and a branch counted alone.
        guidance: "batched" or "two passes".
    """
    residents = set(manager.residents)
    pixels = (request.width or 0) * (request.height or 0)
    return Plan(
        loads=tuple(str(key) for key in parts if key not in residents),
        leaves=tuple(str(key) for key in dict.fromkeys([*switched_off, *manager.leaving(parts)])),
        needs_bytes=sum(key.bytes for key in parts) + activations + copies,
        budget_bytes=manager.policy.budget_bytes,
        model_calls=sum(count for _, count in calls),
        seconds=speeds.guess(calls, pixels),
        device=manager.policy.words,
        dtype=str(manager.policy.dtype).removeprefix("torch."),
        guidance=guidance,
    )


def activation_bytes(request: GenerationRequest, info: CheckpointInfo, vae: VAEConfig, *, together: int) -> int:
    """Memory beside the weights: the larger of one denoiser call and the decoder; an estimate.

    Args:
        together: branches that share a call.
    """
    pixels = (request.width or 0) * (request.height or 0) * request.batch_size
    latents = pixels // 64
    if isinstance(info.denoiser, UNetConfig):
        denoiser = latents * info.denoiser.model_channels * 4 * _UNET_MAPS
    else:
        denoiser = latents // info.denoiser.patch_size**2 * info.denoiser.hidden * 4 * _MMDIT_MAPS
    return max(denoiser * together, int(pixels * vae.channels * 4 * _VAE_MAPS))
