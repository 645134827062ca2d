"""The one pipeline: encode, noise, sample, decode, put back; txt2img, img2img and inpaint differ by optional inputs.

Everything it needs comes in; it keeps nothing between jobs.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from PIL import Image
from torch import Tensor, nn

from backend.diffusion.conditioning import Conditioning, ScheduledConditioning
from backend.diffusion.denoiser import Batching, GuidedDenoiser
from backend.diffusion.guidance import Guidance, SkipLayers
from backend.diffusion.latent_format import LatentFormat
from backend.diffusion.masking import LatentContent, fill_masked, keep_unmasked, latent_mask
from backend.diffusion.noise import NoiseSource
from backend.diffusion.prediction import Prediction
from backend.diffusion.samplers import SAMPLERS
from backend.diffusion.samplers.spec import SamplerSpec, StepState
from backend.diffusion.schedules import SCHEDULES, ScheduleSpec, img2img_sigmas, make_schedule
from backend.engine import canvas
from backend.engine.models import ModelManager
from backend.errors import NanDetected
from backend.families.base import Family, Prompts, plan_prompts, read_embeddings, schedule_conditioning
from backend.formats.configs import CheckpointInfo, Part, VaeInfo
from backend.formats.embeddings import EmbeddingInfo
from backend.nn.unet import UNet
from backend.nn.vae import VAE
from backend.parameters import Parameters
from backend.records.model_fit import skip_layer_indices
from backend.request import GenerationRequest
from backend.text.embeddings import NO_WORDS, EmbeddingWords
from backend.text.tokenize import Encoder, length_notes

LATENT_CELL = 8  # pixels a latent cell's side, in both families
# Drawn apart from the images' own noise, so that "latent noise" under a mask differs from the start noise.
_MASK_NOISE_OFFSET = 1 << 40


@dataclass(frozen=True)
class Job:
    """A resolved request with everything that it refers to."""

    request: GenerationRequest
    info: CheckpointInfo
    vae: VaeInfo | None
    family: Family
    prediction: Prediction
    init_image: Image.Image | None
    mask: Image.Image | None
    batching: Batching
    check: Callable[[], None]  # raises Cancelled when the user stopped the job
    on_note: Callable[[str], None]
    words: EmbeddingWords = NO_WORDS
    samplers: Mapping[str, SamplerSpec] = field(default_factory=lambda: SAMPLERS)
    schedules: Mapping[str, ScheduleSpec] = field(default_factory=lambda: SCHEDULES)
    values: Mapping[str, Parameters] = field(default_factory=dict)  # of the panels that the request names

    @property
    def sampler(self) -> SamplerSpec:
        """The request's."""
        return self.samplers[str(self.request.sampler)]


@dataclass(frozen=True)
class Prompting:
    """The prompts of a job as conditioning; ``uncond`` is None where no step needs it.

    ``embeddings``: those that an encoder read.
    """

    cond: tuple[ScheduledConditioning, ...]
    uncond: ScheduledConditioning | None
    notes: tuple[str, ...]
    embeddings: tuple[EmbeddingInfo, ...] = ()


@dataclass(frozen=True)
class Start:
    """Where sampling begins: an init latent (1, C, h, w) in denoiser units, a latent mask, and the pictures' layout."""

    init_latent: Tensor | None = None
    mask: Tensor | None = None
    layout: canvas.InpaintCanvas | None = None


@dataclass(frozen=True)
class Batch:
    """The finished pictures of one batch, with their seeds."""

    index: int
    images: tuple[Image.Image, ...]
    seeds: tuple[int, ...]


OnBatchStep = Callable[[int, StepState], None]  # batch index, step


def sigmas_of(job: Job) -> Tensor:
    """The noise levels that this job runs through, highest first, the last 0."""
    request, default = job.request, job.sampler.default_schedule

    def schedule(steps: int) -> Tensor:
        return make_schedule(str(request.schedule), default, job.prediction, steps, job.schedules)

    steps = request.steps or 1
    if job.init_image is None:
        return schedule(steps)
    return img2img_sigmas(schedule, steps, request.denoise, exact_steps=request.exact_steps)


def guidance_of(request: GenerationRequest) -> Guidance:
    """How strongly and in which steps the prompt steers."""
    skip = None
    if request.skip_layer_scale:
        layers = skip_layer_indices(request.skip_layers)
        skip = SkipLayers(layers, request.skip_layer_scale, request.skip_layer_start, request.skip_layer_end)
    return Guidance(
        request.cfg_scale or 1.0, request.cfg_rescale, request.guidance_start, request.guidance_end, skip=skip
    )


def count_calls(job: Job, steps: int) -> int:
    """Network calls of the whole job, each picture and each branch counted alone; a last step may need fewer."""
    request, guidance = job.request, guidance_of(job.request)
    plans = plan_prompts(request, job.family.text_parts(job.info, request), steps, negative=False).values()
    weights = [part.weight for part in max(plans, key=lambda plan: len(plan.parts)).parts]
    ways = [way for step in range(steps) for way in guidance.ways(weights, step, steps)]
    branches = sum(1 if way.is_negative else len(weights) for way in ways)
    per_step = job.sampler.calls_per_step
    return round(branches * per_step * request.batch_size * request.batch_count)


class PromptCache:
    """The conditioning of the latest prompts, so that a repeated prompt needs no text encoder in memory."""

    def __init__(self, entries: int = 16) -> None:
        self._entries = entries
        self._known: OrderedDict[Hashable, Prompting] = OrderedDict()

    def encode(self, job: Job, manager: ModelManager, steps: int) -> Prompting:
        """``encode_prompts``, or what it gave for the same files and the same fields before."""
        key = self._key(job, manager, steps)
        prompting = self._known.pop(key, None) or encode_prompts(job, manager, steps)
        self._known[key] = prompting
        while len(self._known) > self._entries:
            self._known.popitem(last=False)
        return prompting

    def holds(self, job: Job, manager: ModelManager, steps: int) -> bool:
        """Whether ``encode`` would load nothing."""
        return self._key(job, manager, steps) in self._known

    def _key(self, job: Job, manager: ModelManager, steps: int) -> Hashable:
        request = job.request
        # Whatever is not read by the encoders is taken out, so that a field that is added counts by itself.
        asked = replace(
            request, seed=0, variation_seed=0, variation_strength=0.0, batch_size=1, batch_count=1, sampler=None,
            schedule=None, shift=None, vae="", prediction=None, zero_terminal_snr=None,
            cfg_rescale=0.0, guidance_start=0.0, guidance_end=1.0,
            skip_layers="", skip_layer_scale=0.0, skip_layer_start=0.0, skip_layer_end=1.0,
            cfg_scale=1.0 if request.cfg_scale == 1.0 else 2.0, init_image=None, mask=None, image_format="png",
        )  # fmt: skip
        files = tuple(manager.key(job.info, part) for part in job.family.text_parts(job.info, request))
        return files, asked, steps, job.words.stamp


def encode_prompts(job: Job, manager: ModelManager, steps: int) -> Prompting:
    """Load the text encoders that the request needs and turn its prompts into conditioning."""
    request, parts = job.request, job.family.text_parts(job.info, job.request)
    positive = plan_prompts(request, parts, steps, negative=False, words=job.words)
    negative = plan_prompts(request, parts, steps, negative=True, words=job.words)
    models: dict[Part, nn.Module] = {}
    for part in parts:
        job.check()
        models[part] = manager.get(job.info, part)

    def encode(prompts: Prompts, *, negative: bool) -> Conditioning:
        job.check()  # [a|b] over many steps may be hundreds of prompts
        return job.family.encode(models, job.info, request, prompts, negative=negative)

    with torch.inference_mode():
        cond = schedule_conditioning(positive, partial(encode, negative=False))
        uncond = None
        if guidance_of(request).needs_negative([part.weight for part in cond]):
            uncond = schedule_conditioning(negative, partial(encode, negative=True))[0]
    warnings = [warning for plan in (*positive.values(), *negative.values()) for warning in plan.warnings]
    too_long = [
        note
        for plans in (positive, negative)
        for part, plan in plans.items()
        for prompt in plan.prompts
        for note in length_notes(job.info, prompt, _counter_of(part))
    ]
    embeddings, unread = read_embeddings(job.info, positive, negative)
    return Prompting(tuple(cond), uncond, tuple(dict.fromkeys([*warnings, *too_long, *unread])), embeddings)


def _counter_of(part: Part) -> Encoder:
    return part if part in ("clip_l", "clip_g", "clip_h", "t5") else "clip"


def prepare_start(job: Job, manager: ModelManager) -> Start:
    """Bring the init image and the mask to latents; nothing to do for txt2img."""
    request, image = job.request, job.init_image
    if image is None:
        return Start()
    width, height = request.width or image.width, request.height or image.height
    layout = mask = None
    if job.mask is None:
        work = canvas.resize(image, width, height, request.resize_mode)
    else:
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
        work = layout.work
        if request.masked_content == "fill":
            work = canvas.fill_masked(work, layout.work_mask)
        pixels = canvas.mask_to_tensor(layout.work_mask)
        mask = latent_mask(pixels, (height // LATENT_CELL, width // LATENT_CELL)).to(manager.policy.device)
        if not bool(mask.any()):
            job.on_note("The mask is empty, or its strokes are too thin for the blur: nothing is repainted.")
    return Start(encode_image(job, manager, work), mask, layout)


def sample_batches(
    job: Job, manager: ModelManager, prompting: Prompting, start: Start, sigmas: Tensor, on_step: OnBatchStep
) -> Iterator[tuple[int, tuple[int, ...], Tensor]]:
    """Run the sampler batch by batch: (batch index, seeds, latents (B, C, h, w) in denoiser units, float32).

    Raises:
        NanDetected: with the step; Cancelled: between two network calls.
    """
    request, policy = job.request, manager.policy
    network = manager.denoiser(job.info)
    shape = (
        job.info.latent.channels,
        (request.height or 0) // LATENT_CELL,
        (request.width or 0) // LATENT_CELL,
    )
    for batch in range(request.batch_count):
        places = range(batch * request.batch_size, (batch + 1) * request.batch_size)
        seeds, variations = zip(*(request.seeds_of(place) for place in places), strict=True)
        noise = NoiseSource(
            seeds,
            shape,
            device=policy.device,
            variation_seeds=variations,
            variation_strength=request.variation_strength,
        )
        guided = GuidedDenoiser(
            network,
            job.prediction,
            prompting.cond,
            prompting.uncond,
            steps=len(sigmas) - 1,
            guidance=guidance_of(request),
            batching=job.batching,
            context_repeats=isinstance(
                network, UNet
            ),  # cross-attention does not see repeated tokens; joint attention does
            prepare=network.prepare_context,
            dtype=policy.dtype,
            check=job.check,
        )
        x, denoise = _start_point(job, start, noise, seeds, sigmas, guided)
        run = job.sampler.with_parameters(job.values.get(job.sampler.name))
        counted = guided.counting(lambda state, batch=batch: on_step(batch, state))
        with torch.inference_mode():
            latents = run(denoise, x, sigmas, prediction=job.prediction, noise=noise, on_step=counted)
        yield batch, seeds, latents


def _start_point(
    job: Job, start: Start, noise: NoiseSource, seeds: Sequence[int], sigmas: Tensor, guided: GuidedDenoiser
) -> tuple[Tensor, Callable[[Tensor, Tensor], Tensor]]:
    """The first ``x`` and the denoiser, which keeps what the mask keeps."""
    sigma = sigmas[0].to(noise.initial.device)
    if start.init_latent is None:
        return job.prediction.start(noise.initial, sigma), guided
    init = start.init_latent.expand(len(seeds), *start.init_latent.shape[1:])
    if start.mask is None:
        return job.prediction.add_noise(init, noise.initial, sigma), guided
    content: LatentContent = "original"
    under_mask = noise.initial
    if job.request.masked_content in ("latent noise", "latent nothing"):
        content = job.request.masked_content
    if content == "latent noise":
        others = [(seed + _MASK_NOISE_OFFSET) % 2**63 for seed in seeds]
        under_mask = NoiseSource(others, (init.shape[1], init.shape[2], init.shape[3]), device=init.device).initial
    filled = fill_masked(init, start.mask, content, under_mask)
    return job.prediction.add_noise(filled, noise.initial, sigma), keep_unmasked(guided, start.mask, init)


def encode_image(job: Job, manager: ModelManager, image: Image.Image) -> Tensor:
    """A picture as a clean latent (1, C, h, w) in denoiser units, float32: the mean of the VAE's distribution."""
    vae = manager.vae(job.vae or job.info)
    pixels = canvas.to_tensor(image)
    raw = _finite(job, vae, pixels, vae.encode, "encoding the init image")
    return latent_format(job).encode(raw)


def decode_latents(job: Job, manager: ModelManager, latents: Tensor) -> tuple[Image.Image, ...]:
    """Pictures of latents in denoiser units, one at a time, so that a batch needs no more memory than one."""
    vae = manager.vae(job.vae or job.info)
    pictures: list[Image.Image] = []
    for latent in latents.split(1):
        job.check()
        raw = latent_format(job).decode(latent)
        pictures += canvas.to_images(_finite(job, vae, raw, vae.decode, "decoding"))
    return tuple(pictures)


def finish_batch(start: Start, index: int, seeds: tuple[int, ...], images: Sequence[Image.Image]) -> Batch:
    """Lay inpainted areas back over their picture."""
    put_back = start.layout.put_back if start.layout else lambda image: image
    return Batch(index, tuple(put_back(image) for image in images), seeds)


def latent_format(job: Job) -> LatentFormat:
    """The latent space of the job's VAE: as its own file says, else as the checkpoint's does."""
    return LatentFormat((job.vae and job.vae.latent) or job.info.latent)


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
