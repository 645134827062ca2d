"""From what a user left open to what will be run: empty fields filled, seeds drawn, names checked, sizes rounded.

Nothing changes in silence: what differs from the words of the request comes back as a note. A resolved request
resolves to itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from random import Random
from typing import TypeVar

from backend.errors import BadRequest, ModelUnsupported
from backend.formats.configs import CheckpointInfo, MMDiTConfig, VaeInfo
from backend.formats.constants import CLIP_SKIP
from backend.formats.predictions import ALLOWED, DISCRETE, with_prediction
from backend.formats.vae_files import takes
from backend.records.model_fit import check_models, without_effect
from backend.records.panels import check_panels, idle_samplers, whole_values
from backend.records.registry import Registry, registered_name
from backend.request import MAX_SEED, MAX_SIDE, GenerationRequest, ImageFormat

MIN_SIDE = 64
MAX_DRAWN_SEED = 2**32 - 1  # as A1111 draws them
INIT_SIDE = 2048  # an init image's own size is taken up to here ...
INIT_AREA = 4  # ... and up to so many times the area that the checkpoint was made for
_FORMAT_SIDES: Mapping[ImageFormat, int] = {"webp": 16_383, "jpeg": 65_500}  # libwebp's and libjpeg's own limits
_SUFFIXES = frozenset({".safetensors", ".sft"})
T = TypeVar("T")


@dataclass(frozen=True)
class Resolved:
    """A request without open fields, and what the user should know of how they were closed."""

    request: GenerationRequest
    notes: tuple[str, ...]


def resolve(
    request: GenerationRequest,
    info: CheckpointInfo,
    registry: Registry,
    *,
    rng: Random,
    init_size: tuple[int, int] | None = None,
    vae: VaeInfo | None = None,
    refiner: CheckpointInfo | None = None,
) -> Resolved:
    """Close every open field of ``request`` for the checkpoint that it names.

    Args:
        info, vae, refiner: what ``Catalog.asked_by`` and ``Catalog.refiner`` give for it.
        init_size: width and height of the init image, if it has one.
        rng: draws the seeds that are -1.
    Raises:
        BadRequest: an unknown sampler or schedule, a size or seeds beyond what can be made.
        ModelUnsupported: the VAE or the refiner does not fit the checkpoint.
    """
    notes: list[str] = []
    request, info = _prediction(request, info, notes)
    _check_vae(info, vae)
    _check_clip_skip(request, info)
    _check_chunks(request, info)
    check_models(request, info, refiner)
    _check_format(request, init_size)
    check_panels(request, info.family, registry)
    width, height = _size(request, info, init_size, notes)
    seeds = _seeds(request, rng)
    ready = replace(
        request,
        checkpoint=_bare(request.checkpoint) or info.name,
        vae=_bare(request.vae) or (vae.name if vae is not None else ""),
        clip_l_file=_bare(request.clip_l_file) or info.companions.get("clip_l", ""),
        clip_g_file=_bare(request.clip_g_file) or info.companions.get("clip_g", ""),
        t5_file=_bare(request.t5_file) or (info.companions.get("t5", "") if request.use_t5 else ""),
        refiner=_bare(request.refiner),
        width=width,
        height=height,
        steps=_or(request.steps, info.defaults.steps),
        cfg_scale=_or(request.cfg_scale, info.defaults.cfg_scale),
        sampler=registered_name(registry, "samplers", _or(request.sampler, info.defaults.sampler)),
        schedule=registered_name(registry, "schedules", _or(request.schedule, info.defaults.schedule)),
        shift=_shift(request, info, notes),
        clip_skip=_or(request.clip_skip, CLIP_SKIP[info.family]),
        seed=seeds[0],
        variation_seed=seeds[1],
        use_t5=_use_t5(request, info, notes),
        extensions=whole_values(request, registry),
    )
    notes += [*_without_effect(ready, info), *without_effect(ready, info, refiner), *idle_samplers(ready, registry)]
    return Resolved(ready, tuple(notes))


def _prediction(
    request: GenerationRequest, info: CheckpointInfo, notes: list[str]
) -> tuple[GenerationRequest, CheckpointInfo]:
    """The request's own word on what the denoiser outputs, and the checkpoint with the settings that go with it.

    What a person once answered for the file is written into the request: the answer may change, its pictures not.
    """
    answered = info.prediction_source == "you"
    prediction = request.prediction or (info.prediction if answered else None)
    zero_snr = request.zero_terminal_snr
    if zero_snr is None and request.prediction is None and answered:
        zero_snr = info.zero_terminal_snr
    allowed = ALLOWED[info.family]
    if prediction is not None and "flow" in allowed:
        notes.append(f"Prediction has no effect on {info.name}: it is a flow model.")
        prediction = None
    elif prediction is not None and prediction not in allowed:
        raise BadRequest(
            f"Prediction is {prediction!r}, which no {info.variant} model outputs.",
            f"Accepted: {', '.join(allowed)}.",
            field="prediction",
        )
    kind = prediction or info.prediction
    if zero_snr is not None and kind not in DISCRETE:
        notes.append(f"Zero terminal SNR has no effect on {info.name}, whose noise levels are no table.")
        zero_snr = None
    told = replace(request, prediction=prediction, zero_terminal_snr=zero_snr)
    if prediction is None and zero_snr is None:
        return told, info
    is_zero_snr = kind in DISCRETE and _or(zero_snr, info.zero_terminal_snr)
    return told, with_prediction(info, kind, "you", zero_snr=is_zero_snr)


def round_side(pixels: float, multiple: int) -> int:
    """The multiple nearest to ``pixels`` (halves up) that a request can have."""
    least = math.ceil(MIN_SIDE / multiple) * multiple
    most = MAX_SIDE // multiple * multiple
    return min(max(math.floor(pixels / multiple + 0.5) * multiple, least), most)


def max_side(info: CheckpointInfo) -> int:
    """The longest side that the checkpoint's position table allows, in pixels."""
    if not isinstance(info.denoiser, MMDiTConfig):
        return MAX_SIDE
    pixels_per_patch = info.size_multiple  # 8 x 8 pixels a latent, 2 x 2 latents a patch
    return min(MAX_SIDE, info.denoiser.pos_embed_side * pixels_per_patch)


def _size(
    request: GenerationRequest, info: CheckpointInfo, init_size: tuple[int, int] | None, notes: list[str]
) -> tuple[int, int]:
    wanted_width, wanted_height = _wanted_size(request, info, init_size)
    width, height = round_side(wanted_width, info.size_multiple), round_side(wanted_height, info.size_multiple)
    given = request.width is not None and request.height is not None
    if given or init_size is None:
        for word, wanted, got in [("Width", wanted_width, width), ("Height", wanted_height, height)]:
            if wanted != got:
                notes.append(
                    f"{word} {wanted:g} was rounded to {got}: {info.variant} takes multiples of {info.size_multiple}."
                )
    elif (width, height) != init_size:
        notes.append(f"The init image has {init_size[0]} x {init_size[1]} pixels; the result has {width} x {height}.")
    limit = max_side(info)
    for field, side in [("width", width), ("height", height)]:
        if side > limit:
            raise BadRequest(
                f"{field.capitalize()} {side} is more than {info.name} can place.",
                f"Accepted: {MIN_SIDE} to {limit}.",
                field=field,
            )
    return width, height


def _wanted_size(
    request: GenerationRequest, info: CheckpointInfo, init_size: tuple[int, int] | None
) -> tuple[float, float]:
    defaults = info.defaults
    if init_size is None:
        return _or(request.width, defaults.width), _or(request.height, defaults.height)
    width, height = init_size
    if request.width is not None:
        return request.width, _or(request.height, request.width * height / width)
    if request.height is not None:
        return request.height * width / height, request.height
    area = INIT_AREA * defaults.width * defaults.height
    scale = min(1.0, min(INIT_SIDE, max_side(info)) / max(width, height), math.sqrt(area / (width * height)))
    return width * scale, height * scale


def _seeds(request: GenerationRequest, rng: Random) -> tuple[int, int]:
    pictures = request.batch_size * request.batch_count
    seed = rng.randint(0, MAX_DRAWN_SEED) if request.seed == -1 else request.seed
    variation = request.variation_seed
    if variation == -1 and request.variation_strength > 0:
        variation = rng.randint(0, MAX_DRAWN_SEED)
    for field, first in [("seed", seed), ("variation_seed", variation)]:
        if first + pictures - 1 > MAX_SEED:
            raise BadRequest(
                f"{field} {first} is too high for {pictures} pictures: each takes the next one.",
                f"Accepted: up to {MAX_SEED - pictures + 1}.",
                field=field,
            )
    return seed, variation


def _shift(request: GenerationRequest, info: CheckpointInfo, notes: list[str]) -> float | None:
    if info.prediction == "flow":
        return _or(request.shift, info.defaults.shift)
    if request.shift is not None:
        notes.append(f"Shift has no effect on {info.name}: it is not a flow model.")
    return None


def _use_t5(request: GenerationRequest, info: CheckpointInfo, notes: list[str]) -> bool:
    if info.family == "sd3" and info.t5 is None and request.use_t5:
        notes.append(f"{info.name} has no T5 in it: its two CLIP encoders read the prompt alone.")
        return False
    return request.use_t5


def _without_effect(request: GenerationRequest, info: CheckpointInfo) -> Sequence[str]:
    notes: list[str] = []
    reads_t5 = info.t5 is not None and request.use_t5
    for words, is_set in [
        ("The prompt for T5", bool(request.prompt_t5)),
        ("Emphasis on T5", request.emphasis_t5 != "ignore"),
        ("T5 at full length", request.t5_full_length),
    ]:
        if is_set and not reads_t5:
            notes.append(f"{words} has no effect: T5 is not used.")
    if request.t5_zeros and (reads_t5 or info.family != "sd3"):
        notes.append(f"Zeros for T5 have no effect: {'T5 is used' if reads_t5 else f'{info.variant} has no T5'}.")
    sizes = (request.original_width, request.original_height, request.target_width, request.target_height)
    is_sized = any(side is not None for side in sizes) or request.crop_left or request.crop_top
    if is_sized and info.family not in ("sdxl", "sdxl_refiner"):
        notes.append(f"Size conditioning (original, crop, target) has no effect on {info.variant}.")
    return notes


def _check_vae(info: CheckpointInfo, vae: VaeInfo | None) -> None:
    words = "" if vae is None else vae.name if vae.name.startswith("VAE ") else f"VAE {vae.name}"
    if vae is not None and vae.config.latent_channels != info.latent.channels:
        raise ModelUnsupported(
            f"{words} has {vae.config.latent_channels} latent channels; {info.name} needs {info.latent.channels}.",
            "Choose a VAE of the same family, or none.",
            field="vae",
        )
    if vae is not None and not takes(vae, info.family):
        raise ModelUnsupported(
            f"{words} is one for {vae.made_for}{', as you said' if vae.questions else ''}; {info.name} is a "
            "model of another family.",
            f"Choose another VAE{', or correct what you said about it' if vae.questions else ''}.",
            field="vae",
        )
    if vae is None and info.vae is None:
        raise BadRequest(
            f"{info.name} has no VAE in it, and none in models/vae fits it.",
            "Put one there, or choose the VAE of another checkpoint.",
            field="vae",
        )


def _check_clip_skip(request: GenerationRequest, info: CheckpointInfo) -> None:
    clips = [clip for clip in (info.clip_l, info.clip_g, info.clip_h) if clip is not None]
    if request.clip_skip is None or not clips:
        return
    low, high = 1 + max(clip.cut for clip in clips), min(clip.layers + clip.cut for clip in clips)
    if not low <= request.clip_skip <= high:
        layers = f"{high} layers" if low == 1 else f"{high} layers, the last of which is not in its file"
        raise BadRequest(
            f"Clip skip is {request.clip_skip}, but a CLIP encoder of {info.name} has {layers}.",
            f"Accepted: {low} to {high}.",
            field="clip_skip",
        )


def _check_chunks(request: GenerationRequest, info: CheckpointInfo) -> None:
    """CLIP-L's and CLIP-G's tokens stand side by side, so that both must read as many at once."""
    if info.clip_l is None or info.clip_g is None or info.clip_l.positions == info.clip_g.positions:
        return
    raise ModelUnsupported(
        f"CLIP-L of {info.name} reads {info.clip_l.positions} tokens at once, CLIP-G {info.clip_g.positions}: one of "
        "them is a LongCLIP, and their tokens cannot be laid side by side.",
        "Choose a CLIP-L of the usual 77 tokens.",
        field="clip_l_file" if request.clip_l_file else "checkpoint",
    )


def _check_format(request: GenerationRequest, init_size: tuple[int, int] | None) -> None:
    """Only "only masked" gives pictures beyond a request's own bounds: they keep the init image's size."""
    if init_size is None or not request.is_inpaint or request.inpaint_area != "only masked":
        return
    limit = _FORMAT_SIDES.get(request.image_format)
    if limit is not None and max(init_size) > limit:
        raise BadRequest(
            f"The picture has {init_size[0]} x {init_size[1]} pixels; a {request.image_format} file holds at most "
            f"{limit} a side.",
            "Choose png.",
            field="image_format",
        )


def _bare(name: str) -> str:
    """A model name without the suffix that people copy along."""
    return name[: -len(PurePath(name).suffix)] if PurePath(name).suffix.lower() in _SUFFIXES else name


def _or(value: T | None, default: T) -> T:
    return default if value is None else value
