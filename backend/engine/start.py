"""Where sampling begins: the init image and the mask as latents, what a denoiser reads of them, and the first ``x``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from backend.diffusion.masking import LatentContent, fill_masked, inpaint_inputs, latent_mask
from backend.diffusion.noise import NoiseSource
from backend.engine import canvas
from backend.engine.job import Job
from backend.engine.latents import encode_image, encode_pixels, latent_format, latent_shape
from backend.engine.models import ModelManager
from backend.extending import StartPicture
from backend.formats.inputs import ExtraInputs, extra_inputs

# Drawn apart from the images' own noise, so that "latent noise" under a mask differs from the start noise.
_MASK_NOISE_OFFSET = 1 << 40
_NO_INPUTS: Mapping[ExtraInputs, Tensor] = MappingProxyType({})


@dataclass(frozen=True)
class Start:
    """Where sampling begins: an init latent (1, C, h, w) in denoiser units, a latent mask, and the pictures' layout.

    ``inputs`` is what denoisers read beside the noisy latent, (1, C', h, w), by kind. ``soft_mask`` is the mean of each
    cell, 0 to 1, for patches that repaint by degrees.
    """

    init_latent: Tensor | None = None
    mask: Tensor | None = None
    layout: canvas.InpaintCanvas | None = None
    inputs: Mapping[ExtraInputs, Tensor] = field(default_factory=lambda: _NO_INPUTS)
    soft_mask: Tensor | None = None


def lay_out(job: Job) -> tuple[Image.Image | None, canvas.InpaintCanvas | None]:
    """The init image as the networks work on it, at the request's size; and where it lies, if there is a mask."""
    request, image = job.request, job.init_image
    if image is None:
        return None, None
    width, height = request.width or image.width, request.height or image.height
    if job.mask is None:
        return canvas.resize(image, width, height, request.resize_mode), None
    layout = canvas.inpaint_canvas(
        image,
        job.mask,
        width=width,
        height=height,
        resize_mode=request.resize_mode,
        blur=request.mask_blur,
        padding=request.masked_padding,
        only_masked=request.inpaint_area == "only masked",
    )
    return layout.work, layout


def start_picture(job: Job) -> StartPicture | None:
    """What ``lay_out`` says, for extensions."""
    work, layout = lay_out(job)
    if work is None:
        return None
    picture = (canvas.to_tensor(work) + 1) / 2
    if layout is None:
        return StartPicture(picture, None, work.size, (0, 0, *work.size))
    return StartPicture(picture, canvas.mask_to_tensor(layout.work_mask), layout.base.size, layout.box)


def prepare_start(job: Job, manager: ModelManager) -> Start:
    """Bring the init image and the mask to latents, and what a denoiser reads of them beside its noisy latent."""
    request = job.request
    work, layout = lay_out(job)
    if work is None:
        return Start(inputs=_inputs(job, manager, None, None))
    mask = soft = pixels = None
    if layout is not None:
        if request.masked_content == "fill":
            work = canvas.fill_masked(work, layout.work_mask)
        pixels = canvas.mask_to_tensor(layout.work_mask)
        _, height, width = latent_shape(job)
        size = (height, width)
        mask = latent_mask(pixels, size).to(manager.policy.device)
        soft = F.adaptive_avg_pool2d(pixels, size).to(manager.policy.device)
        if not bool(mask.any()):
            job.on_note("The mask is empty, or its strokes are too thin for the blur: nothing is repainted.")
    return Start(encode_image(job, manager, work), mask, layout, _inputs(job, manager, work, pixels), soft)


def _inputs(
    job: Job, manager: ModelManager, work: Image.Image | None, mask: Tensor | None
) -> Mapping[ExtraInputs, Tensor]:
    """What the job's denoisers read beside the noisy latent; without a picture or a mask, as if all were masked.

    Instruct-pix2pix models take the VAE's latent without its scale, CosXL's with it (diffusers, ComfyUI).
    """
    found: dict[ExtraInputs, Tensor] = {}
    for each in filter(None, (job, job.refiner)):
        kind = extra_inputs(each.info.denoiser)
        if kind == "edit" and work is not None:
            raw = encode_pixels(job, manager, canvas.to_tensor(work), "encoding the picture to change")
            found[kind] = latent_format(job).encode(raw) if each.prediction.kind == "edm_v" else raw
        elif kind == "inpaint":
            size = (job.request.height or 0, job.request.width or 0)
            shown = torch.zeros(1, 3, *size) if work is None or mask is None else canvas.to_tensor(work)
            hidden = torch.ones(1, 1, *size) if work is None or mask is None else mask
            found[kind] = inpaint_inputs(
                shown,
                hidden,
                lambda seen: latent_format(job).encode(encode_pixels(job, manager, seen, "encoding what is kept")),
            )
    return found


def start_point(job: Job, start: Start, noise: NoiseSource, seeds: Sequence[int], sigmas: Tensor) -> Tensor:
    """The first ``x``, (B, C, h, w): noise, or the init latent with noise on it.

    Args:
        sigmas: of the run; it begins at the first.
    """
    sigma = sigmas[0].to(noise.initial.device)
    # What an instruct-pix2pix model changes reaches it through its own channels; at full strength it starts anew.
    is_edit = extra_inputs(job.info.denoiser) == "edit" and job.request.denoise == 1
    if start.init_latent is None or is_edit:
        return job.prediction.start(noise.initial, sigma)
    init = start.init_latent.expand(len(seeds), *start.init_latent.shape[1:])
    if start.mask is None:
        return job.prediction.add_noise(init, noise.initial, sigma)
    content: LatentContent = "original"
    under_mask = noise.initial
    if job.request.masked_content in ("latent noise", "latent nothing"):
        content = job.request.masked_content
    if content == "latent noise":
        others = [(seed + _MASK_NOISE_OFFSET) % 2**63 for seed in seeds]
        under_mask = NoiseSource(others, (init.shape[1], init.shape[2], init.shape[3]), device=init.device).initial
    filled = fill_masked(init, start.mask, content, under_mask)
    return job.prediction.add_noise(filled, noise.initial, sigma)
