"""Live previews: the denoised latent as a small JPEG, by a linear map from latent channels to RGB."""

from __future__ import annotations

import base64
import io

from PIL import Image
from torch import Tensor

from backend.diffusion.latent_format import LatentFormat
from backend.engine.canvas import to_images

MAX_SIDE = 256  # pixels of a preview's longer side: a few kilobytes a step


def preview_jpeg(latent: Tensor, latent_format: LatentFormat) -> str:
    """The first picture of a batch of latents (B, C, h, w), base64 JPEG of at most 256 pixels a side."""
    picture = to_images(latent_format.preview(latent[:1].float()))[0]
    scale = min(MAX_SIDE / max(picture.size), 8.0)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    buffer = io.BytesIO()
    picture.resize(size, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=80)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
