"""Live previews: the denoised latent as a small JPEG, by a tiny decoder if the user has one, else by a linear map."""

from __future__ import annotations

import base64
import io
import logging
from collections.abc import Callable

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from backend.checkpoints.load import load_preview_decoder
from backend.diffusion.latent_format import LatentFormat
from backend.engine.canvas import to_images
from backend.engine.device import DevicePolicy
from backend.errors import UserError
from backend.formats.configs import PreviewInfo

MAX_SIDE = 256  # pixels of a preview's longer side: a few kilobytes a step
# Latent cells a side that the tiny decoder sees: all of a 1024 picture takes a GPU milliseconds and a CPU seconds.
DECODED_CELLS = {"cuda": 128, "mps": 64}
CPU_CELLS = 32
log = logging.getLogger(__name__)


class Previews:
    """Makes previews; keeps the tiny decoder that was used last, a few megabytes beside the models' budget."""

    def __init__(self, policy: DevicePolicy) -> None:
        self._policy = policy
        self._loaded: tuple[tuple[PreviewInfo, int], nn.Module] | None = None

    def maker(
        self, latent_format: LatentFormat, file: PreviewInfo | None, on_note: Callable[[str], None]
    ) -> Callable[[Tensor], str]:
        """What turns latents (B, C, h, w) in denoiser units into a base64 JPEG of the first picture.

        Args:
            file: the tiny decoder to use; None: the linear map.
            on_note: told if the decoder cannot be used; the linear map stands in for it.
        """
        try:
            decoder = None if file is None else self._decoder(file)
        except (UserError, OSError) as error:
            on_note(f"The preview decoder cannot be used, so previews are rough. {error}")
            decoder = None
        if decoder is None:
            return lambda latent: preview_jpeg(latent, latent_format)
        return lambda latent: _jpeg(to_images(self._decoded(decoder, latent))[0])

    def _decoded(self, decoder: nn.Module, latent: Tensor) -> Tensor:
        cells = DECODED_CELLS.get(self._policy.device.type, CPU_CELLS)
        latent = latent[:1].float()
        scale = cells / max(latent.shape[-2:])
        if scale < 1:
            height, width = (max(1, round(side * scale)) for side in latent.shape[-2:])
            latent = F.interpolate(latent, size=(height, width), mode="area")
        weight = next(decoder.parameters())
        with torch.inference_mode():
            return decoder(latent.to(device=weight.device, dtype=weight.dtype))

    def _decoder(self, file: PreviewInfo) -> nn.Module:
        key = (file, file.path.stat().st_mtime_ns)
        if self._loaded is None or self._loaded[0] != key:
            decoder = load_preview_decoder(file).to(device=self._policy.device, dtype=self._policy.dtype)
            log.info("previews are made by %s", file.path.name)
            self._loaded = (key, decoder)
        return self._loaded[1]


def preview_jpeg(latent: Tensor, latent_format: LatentFormat) -> str:
    """The first picture of a batch of latents (B, C, h, w) by the linear map, base64 JPEG of at most 256 pixels."""
    return _jpeg(to_images(latent_format.preview(latent[:1].float()))[0])


def _jpeg(picture: Image.Image) -> str:
    scale = min(MAX_SIDE / max(picture.size), 8.0)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    buffer = io.BytesIO()
    picture.resize(size, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=80)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
