"""The one pipeline: encode, noise, sample, decode, put back; txt2img, img2img and inpaint differ by optional inputs.

Everything it needs comes in; it keeps nothing between jobs.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from backend.diffusion.conditioning import Conditioning, ScheduledConditioning
from backend.diffusion.denoiser import GuidedDenoiser
from backend.diffusion.latent_format import LatentFormat
from backend.diffusion.masking import KeepUnmasked, LatentContent, fill_masked, inpaint_inputs, latent_mask
from backend.diffusion.noise import NoiseSource
from backend.diffusion.patched import NO_PATCHES, PatchSet, around
from backend.diffusion.patching import PatchRefused, StepMask, VaeDecode, VaeEncode
from backend.diffusion.relay import Leg, Relay
from backend.diffusion.samplers.spec import Denoiser, StepState
from backend.diffusion.schedules import img2img_sigmas, make_schedule
from backend.engine import canvas
from backend.engine.adapters import text_key
from backend.engine.job import Job, no_patches
from backend.engine.models import ModelManager
from backend.engine.shares import Share, guidance_of, shares_of
from backend.errors import NanDetected
from backend.extending import StartPicture
from backend.families.base import Prompts, plan_prompts, read_embeddings, schedule_conditioning
from backend.formats.configs import Part
from backend.formats.embeddings import EmbeddingInfo
from backend.formats.inputs import ExtraInputs, extra_inputs
from backend.nn.unet import UNet
from backend.nn.vae import VAE
from backend.records.tags import strip_tags
from backend.text.prompt import PromptPlan, parse_prompt
from backend.text.tokenize import Encoder, length_notes

LATENT_CELL = 8  # pixels a latent cell's side, in both families
# Drawn apart from the images' own noise, so that "latent noise" under a mask differs from the start noise.
_MASK_NOISE_OFFSET = 1 << 40
_NO_INPUTS: Mapping[ExtraInputs, Tensor] = MappingProxyType({})


@dataclass(frozen=True)
class Prompting:
    """The prompts of a job as conditioning; ``uncond`` is None where no step needs it.

    ``embeddings``: those that an encoder read; ``refiner``: the prompts as the refiner takes them.
    """

    cond: tuple[ScheduledConditioning, ...]
    uncond: ScheduledConditioning | None
    notes: tuple[str, ...]
    embeddings: tuple[EmbeddingInfo, ...] = ()
    refiner: Prompting | None = None


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


class PromptCache:
    """The conditioning of the latest prompts, so that a repeated prompt needs no text encoder in memory."""

    def __init__(self, entries: int = 16) -> None:
        self._entries = entries
        self._known: OrderedDict[Hashable, Prompting] = OrderedDict()

    def encode(self, job: Job, manager: ModelManager, steps: int) -> Prompting:
        """``encode_prompts``, or what it gave for the same files and the same fields before."""
        prompting = self._of_one(job, manager, steps)
        return prompting if job.refiner is None else _with(prompting, self._of_one(job.refiner, manager, steps))

    def holds(self, job: Job, manager: ModelManager, steps: int) -> bool:
        """Whether the prompts of the job's own checkpoint need no encoder."""
        return self._key(job, manager, steps) in self._known

    def _of_one(self, job: Job, manager: ModelManager, steps: int) -> Prompting:
        key = self._key(job, manager, steps)
        prompting = self._known.pop(key, None) or _encode_own(job, manager, steps)
        self._known[key] = prompting
        while len(self._known) > self._entries:
            self._known.popitem(last=False)
        return prompting

    def _key(self, job: Job, manager: ModelManager, steps: int) -> Hashable:
        request = job.spoken
        # Whatever is not read by the encoders is taken out, so that a field that is added counts by itself.
        asked = replace(
            request, seed=0, variation_seed=0, variation_strength=0.0, batch_size=1, batch_count=1, sampler=None,
            schedule=None, shift=None, vae="", prediction=None, zero_terminal_snr=None,
            cfg_rescale=0.0, guidance_start=0.0, guidance_end=1.0,
            skip_layers="", skip_layer_scale=0.0, skip_layer_start=0.0, skip_layer_end=1.0,
            image_cfg_scale=1.0 if request.image_cfg_scale == 1.0 else 2.0, refiner="", refiner_switch=0.0,
            cfg_scale=1.0 if request.cfg_scale == 1.0 else 2.0, init_image=None, mask=None, image_format="png",
        )  # fmt: skip
        files = tuple(manager.key(job.info, part) for part in job.family.text_parts(job.info, request))
        return files, asked, steps, job.words.stamp, text_key(job.adapters)


def encode_prompts(job: Job, manager: ModelManager, steps: int) -> Prompting:
    """Load the text encoders that the request needs and turn its prompts into conditioning, the refiner's too."""
    prompting = _encode_own(job, manager, steps)
    return prompting if job.refiner is None else _with(prompting, _encode_own(job.refiner, manager, steps))


def _with(prompting: Prompting, refiner: Prompting) -> Prompting:
    notes = tuple(dict.fromkeys(prompting.notes + refiner.notes))
    embeddings = tuple(dict.fromkeys(prompting.embeddings + refiner.embeddings))
    return replace(prompting, refiner=refiner, notes=notes, embeddings=embeddings)


def _encode_own(job: Job, manager: ModelManager, steps: int) -> Prompting:
    request, parts = job.spoken, job.family.text_parts(job.info, job.request)
    positive = plan_prompts(request, parts, steps, negative=False, words=job.words)
    negative = plan_prompts(request, parts, steps, negative=True, words=job.words)
    models: dict[Part, nn.Module] = {}
    for part in parts:
        job.check()
        models[part] = manager.get(job.info, part, job.adapters)

    def encode(prompts: Prompts, *, negative: bool) -> Conditioning:
        job.check()  # [a|b] over many steps may be hundreds of prompts
        return job.family.encode(models, job.info, request, prompts, negative=negative)

    with torch.inference_mode():
        cond = schedule_conditioning(positive, partial(encode, negative=False))
        uncond = None
        if guidance_of(job).needs_negative([part.weight for part in cond]):
            uncond = schedule_conditioning(negative, partial(encode, negative=True))[0]
    warnings = [warning for plan in (*positive.values(), *negative.values()) for warning in plan.warnings]
    too_long = [note for plans in (positive, negative) for note in _cut_off(job, plans)]
    embeddings, unread = read_embeddings(job.info, positive, negative)
    return Prompting(tuple(cond), uncond, tuple(dict.fromkeys([*warnings, *too_long, *unread])), embeddings)


def _cut_off(job: Job, plans: Mapping[Part, PromptPlan]) -> Iterator[str]:
    """What encoders do not read of prompts that are too long."""
    for part, plan in plans.items():
        for prompt in plan.prompts:
            yield from length_notes(job.info, prompt, _counter_of(part))


def _counter_of(part: Part) -> Encoder:
    return part if part in ("clip_l", "clip_g", "clip_h", "t5") else "clip"


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
            raw = _encode_pixels(job, manager, canvas.to_tensor(work), "encoding the picture to change")
            found[kind] = latent_format(job).encode(raw) if each.prediction.kind == "edm_v" else raw
        elif kind == "inpaint":
            size = (job.request.height or 0, job.request.width or 0)
            shown = torch.zeros(1, 3, *size) if work is None or mask is None else canvas.to_tensor(work)
            hidden = torch.ones(1, 1, *size) if work is None or mask is None else mask
            found[kind] = inpaint_inputs(
                shown,
                hidden,
                lambda seen: latent_format(job).encode(_encode_pixels(job, manager, seen, "encoding what is kept")),
            )
    return found


def _own_patches(job: Job, manager: ModelManager) -> PatchSet:
    """What extensions change for the job's first network, whose they are around the VAE too."""
    if job.patches_for is no_patches:
        return NO_PATCHES
    return job.patches_for(job, manager.denoiser(job.info, job.adapters))


def latent_shape(job: Job) -> tuple[int, int, int]:
    """Channels, height and width of one latent."""
    request = job.request
    return job.info.latent.channels, (request.height or 0) // LATENT_CELL, (request.width or 0) // LATENT_CELL


def encode_one(job: Job, manager: ModelManager, prompt: str, *, negative: bool = False) -> Conditioning:
    """One prompt for all encoders, as it stands at the first step; for extensions that need more prompts than two."""
    return encode_steps(job, manager, 1, prompt, negative=negative).at(0)


def encode_steps(
    job: Job, manager: ModelManager, steps: int, prompt: str, *, negative: bool = False
) -> ScheduledConditioning:
    """One prompt for all encoders as it changes over so many steps; what of it is not read is told."""
    parts = job.family.text_parts(job.info, job.request)
    plan = job.words.in_plan(parse_prompt(strip_tags(prompt, job.tags), steps, compose=False))
    for note in (*plan.warnings, *_cut_off(job, dict.fromkeys(parts, plan))):
        job.on_note(note)
    models: dict[Part, nn.Module] = {part: manager.get(job.info, part, job.adapters) for part in parts}

    def encode(prompts: Prompts) -> Conditioning:
        job.check()
        return job.family.encode(models, job.info, job.request, prompts, negative=negative)

    with torch.inference_mode():
        return schedule_conditioning(dict.fromkeys(parts, plan), encode)[0]


def sample_batches(
    job: Job,
    manager: ModelManager,
    prompting: Prompting,
    start: Start,
    sigmas: Tensor,
    on_step: OnBatchStep,
    batches: Iterable[int] | None = None,
) -> Iterator[tuple[int, tuple[int, ...], Tensor]]:
    """Run the sampler batch by batch: (batch index, seeds, latents (B, C, h, w) in denoiser units, float32).

    Args:
        batches: those to be made, counted from 0; None: all.
    Raises:
        NanDetected: with the step; Cancelled: between two network calls.
    """
    request, policy = job.request, manager.policy
    shape = latent_shape(job)
    for batch in range(request.batch_count) if batches is None else batches:
        places = range(batch * request.batch_size, (batch + 1) * request.batch_size)
        seeds, variations = zip(*(request.seeds_of(place) for place in places), strict=True)
        noise = NoiseSource(
            seeds,
            shape,
            device=policy.device,
            variation_seeds=variations,
            variation_strength=request.variation_strength,
        )
        relay = Relay(
            [
                Leg(share.until, partial(_denoiser, share, job, manager, prompting, start, len(sigmas) - 1))
                for share in shares_of(job, sigmas)
            ]
        )
        x = _start_point(job, start, noise, seeds, sigmas)
        told = {"branches": relay.branches} if job.sampler.reads_branches else {}
        run = job.sampler.with_parameters(job.values.get(job.sampler.name))
        counted = relay.counting(lambda state, batch=batch: on_step(batch, state))
        with torch.inference_mode():
            latents = run(relay, x, sigmas, prediction=job.prediction, noise=noise, on_step=counted, **told)
        yield batch, seeds, latents


def _denoiser(
    share: Share, whole: Job, manager: ModelManager, prompting: Prompting, start: Start, steps: int
) -> tuple[GuidedDenoiser, Denoiser]:
    """The denoiser of one checkpoint's share of the steps, and that which keeps what the mask keeps.

    A model that was made for inpainting sees what is kept; what is laid back over its result keeps it to the pixel.
    """
    job = share.job
    own = prompting if job is whole or prompting.refiner is None else prompting.refiner
    kind = extra_inputs(job.info.denoiser)
    with torch.inference_mode(False):  # the sampler runs in it, and weights that are loaded there can never be changed
        network = manager.denoiser(job.info, job.adapters)
        patches = job.patches_for(job, network)
        weights = manager.weight_sets(job.info, job.adapters)
    guided = GuidedDenoiser(
        network,
        job.prediction,
        own.cond,
        own.uncond,
        steps=steps,
        extra=start.inputs.get(kind),
        guidance=guidance_of(job),
        batching=job.batching,
        # Cross-attention does not see repeated tokens; joint attention does.
        context_repeats=isinstance(network, UNet),
        prepare=network.prepare_context,
        dtype=manager.policy.dtype,
        check=job.check,
        patches=patches,
        weights=weights,
        keeps_branches=whole.sampler.reads_branches,
    )
    if start.mask is None or start.init_latent is None or kind == "inpaint":
        if changing := patches.of(StepMask):
            raise PatchRefused(
                f"{changing[0].name} changes what is repainted step by step, which "
                + (f"{job.info.name} decides itself." if kind == "inpaint" else "a job without a mask does not do."),
                "Switch it off, or inpaint with an ordinary checkpoint.",
                field="extensions",
            )
        return guided, guided
    return guided, KeepUnmasked(guided, _mask_of(start, guided, patches), start.init_latent)


def _mask_of(start: Start, guided: GuidedDenoiser, patches: PatchSet) -> Callable[[], Tensor]:
    """The latent mask of the step that is being made, as patches have it."""
    mask, soft = start.mask, start.soft_mask
    if mask is None or soft is None:
        raise ValueError("a job without a mask keeps nothing")

    def current() -> Tensor:
        changing = patches.of(StepMask, guided.step, guided.steps)
        return changing[0].mask(soft, guided.step, guided.steps) if changing else mask

    return current


def _start_point(job: Job, start: Start, noise: NoiseSource, seeds: Sequence[int], sigmas: Tensor) -> Tensor:
    """The first ``x``: noise, or the init latent with noise on it."""
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


def encode_image(job: Job, manager: ModelManager, image: Image.Image) -> Tensor:
    """A picture as a clean latent (1, C, h, w) in denoiser units, float32: the mean of the VAE's distribution."""
    return latent_format(job).encode(_encode_pixels(job, manager, canvas.to_tensor(image), "encoding the init image"))


def encode_plain(job: Job, manager: ModelManager, pixels: Tensor) -> Tensor:
    """Pixels (1, 3, 8 h, 8 w) in [-1, 1] as a raw latent, float32, without any patch: for what extensions read."""
    vae = manager.vae(job.vae or job.info)
    return _finite(job, vae, pixels, vae.encode, "encoding an extension's picture")


def _encode_pixels(job: Job, manager: ModelManager, pixels: Tensor, doing: str) -> Tensor:
    vae = manager.vae(job.vae or job.info)
    return _finite(job, vae, pixels, around(vae.encode, _own_patches(job, manager).of(VaeEncode)), doing)


def decode_latents(job: Job, manager: ModelManager, latents: Tensor) -> tuple[Image.Image, ...]:
    """Pictures of latents in denoiser units, one at a time, so that a batch needs no more memory than one."""
    vae = manager.vae(job.vae or job.info)
    pictures: list[Image.Image] = []
    decode = around(vae.decode, _own_patches(job, manager).of(VaeDecode))
    for latent in latents.split(1):
        job.check()
        raw = latent_format(job).decode(latent)
        pictures += canvas.to_images(_finite(job, vae, raw, decode, "decoding"))
    return tuple(pictures)


def finish_batch(start: Start, index: int, seeds: tuple[int, ...], images: Sequence[Image.Image]) -> Batch:
    """Lay inpainted areas back over their picture."""
    put_back = start.layout.put_back if start.layout else lambda image: image
    return Batch(index, tuple(put_back(image) for image in images), seeds)


def latent_format(job: Job) -> LatentFormat:
    """The latent space of the job's VAE: as its own file says, else as the checkpoint's does.

    Where the numbers are each channel's own, they are the denoiser's, whichever VAE reads its latents.
    """
    own = job.info.latent
    return LatentFormat(own if own.means or job.vae is None else job.vae.latent or own)


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
