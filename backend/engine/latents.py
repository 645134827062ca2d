"""Pictures to latents in denoiser units and back, through the job's VAE."""

from __future__ import annotations

from collections.abc import Callable

import torch
from PIL import Image
from torch import Tensor

from backend.diffusion.latent_format import LatentFormat
from backend.diffusion.patched import around
from backend.diffusion.patching import VaeDecode, VaeEncode
from backend.engine import canvas
from backend.engine.job import Job
from backend.engine.models import ModelManager
from backend.errors import NanDetected
from backend.nn.vae import VAE

LATENT_CELL = 8  # pixels a latent cell's side, in both families


def latent_format(job: Job) -> LatentFormat:
    """The latent space of the job's VAE: as its own file says, else as the checkpoint's does.

    Where the numbers are each channel's own, they are the denoiser's, whichever VAE reads its latents.
    """
    own = job.info.latent
    return LatentFormat(own if own.means or job.vae is None else job.vae.latent or own)


def latent_shape(job: Job) -> tuple[int, int, int]:
    """Channels, height and width of one latent."""
    request = job.request
    return job.info.latent.channels, (request.height or 0) // LATENT_CELL, (request.width or 0) // LATENT_CELL


def encode_image(job: Job, manager: ModelManager, image: Image.Image) -> Tensor:
    """A picture as a clean latent (1, C, h, w) in denoiser units, float32: the mean of the VAE's distribution."""
    return latent_format(job).encode(encode_pixels(job, manager, canvas.to_tensor(image), "encoding the init image"))


def encode_plain(job: Job, manager: ModelManager, pixels: Tensor) -> Tensor:
    """Pixels (1, 3, 8 h, 8 w) in [-1, 1] as a raw latent, float32, without any patch: for what extensions read."""
    with manager.using(job.use()) as use:
        vae = manager.vae(job.vae or job.info, use)
        return _finite(job, vae, pixels, vae.encode, "encoding an extension's picture")


def encode_pixels(job: Job, manager: ModelManager, pixels: Tensor, doing: str) -> Tensor:
    """Pixels (1, 3, 8 h, 8 w) in [-1, 1] as a raw latent, float32; ``doing`` is for the sentence when that fails."""
    patches = job.patches_for(job)  # what changes the first network acts around the VAE too
    with manager.using(job.use()) as use:
        vae = manager.vae(job.vae or job.info, use)
        return _finite(job, vae, pixels, around(vae.encode, patches.of(VaeEncode)), doing)


def decode_latents(job: Job, manager: ModelManager, latents: Tensor) -> tuple[Image.Image, ...]:
    """Pictures of latents (B, C, h, w) in denoiser units, one at a time: a batch needs no more memory than one."""
    pictures: list[Image.Image] = []
    patches = job.patches_for(job)
    with manager.using(job.use()) as use:
        vae = manager.vae(job.vae or job.info, use)
        decode = around(vae.decode, patches.of(VaeDecode))
        for latent in latents.split(1):
            job.check()
            raw = latent_format(job).decode(latent)
            pictures += canvas.to_images(_finite(job, vae, raw, decode, "decoding"))
    return tuple(pictures)


def _finite(job: Job, vae: VAE, x: Tensor, run: Callable[[Tensor], Tensor], doing: str) -> Tensor:
    """Run the VAE; a result with NaN is made again in float32, with a note.

    Raises:
        NanDetected: if float32 gives NaN too; no black picture is ever saved.
    """
    weight = next(vae.parameters())
    dtype, x = weight.dtype, x.to(weight.device)
    with torch.inference_mode():
        result = run(x.to(dtype)).float()
        if torch.isfinite(result).all():
            return result
        if dtype is not torch.float32:
            job.on_note(
                f"The VAE gave NaN in {str(dtype).removeprefix('torch.')} while {doing}; done again in float32."
            )
            try:
                result = vae.float() and run(x.float())
            finally:
                vae.to(dtype)
            if torch.isfinite(result).all():
                return result
    raise NanDetected(f"The VAE gave NaN while {doing}, in float32 too.", "Choose another VAE.", field="vae")
