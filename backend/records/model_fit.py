"""Whether the checkpoints that a request names can do what it asks; what they cannot is refused before it runs."""

from __future__ import annotations

import re

from backend.errors import BadRequest, ModelUnsupported
from backend.formats.configs import CheckpointInfo, MMDiTConfig
from backend.formats.inputs import extra_inputs
from backend.request import GenerationRequest

#: Prompts for one encoder alone: field, part, words. T5's has its own sentence, since T5 may be switched off.
_OWN_PROMPTS = (("prompt_clip_l", "clip_l", "CLIP-L"), ("prompt_clip_g", "clip_g", "CLIP-G"))
_LAYERS = re.compile(r"\s*[0-9]{1,4}(?:[\s,]+[0-9]{1,4})*[\s,]*")


def skip_layer_indices(text: str) -> frozenset[int]:
    """The layers of "7, 8, 9".

    Raises:
        BadRequest: it is no list of whole numbers.
    """
    if not _LAYERS.fullmatch(text):
        raise BadRequest(
            f"Skip layers is {text[:60]!r}, which names no layers.",
            "Write their numbers with commas between, such as 7, 8, 9.",
            field="skip_layers",
        )
    return frozenset(int(number) for number in re.findall(r"\d+", text))


def check_models(request: GenerationRequest, info: CheckpointInfo, refiner: CheckpointInfo | None) -> None:
    """Skip-layer guidance, refiner and init image fit the checkpoints.

    Raises:
        BadRequest, ModelUnsupported: naming the field.
    """
    for each in filter(None, (info, refiner)):
        _check_skip_layers(request, each)
    if refiner is not None:
        _check_refiner(info, refiner)
    if extra_inputs(info.denoiser) == "edit" and request.init_image is None:
        raise BadRequest(
            f"{info.name} ({info.variant}) changes a picture, and there is none.",
            "Give it one in img2img, and say in the prompt what to change.",
            field="init_image",
        )


def without_effect(request: GenerationRequest, info: CheckpointInfo, refiner: CheckpointInfo | None) -> list[str]:
    """Sentences on what the checkpoints do not read of a request."""
    notes: list[str] = []
    default = GenerationRequest()
    used = [each for each in (info, refiner) if each is not None]
    for field, part, words in _OWN_PROMPTS:
        if getattr(request, field) and not any(getattr(each, part) for each in used):
            notes.append(f"The prompt for {words} has no effect: {info.variant} has no {words}.")
    if request.image_cfg_scale != default.image_cfg_scale and extra_inputs(info.denoiser) != "edit":
        notes.append(f"Image CFG scale has no effect on {info.name}: it is no instruct-pix2pix model.")
    scores = (request.aesthetic_score, request.negative_aesthetic_score)
    has_scores = any(each.family == "sdxl_refiner" for each in used)
    if scores != (default.aesthetic_score, default.negative_aesthetic_score) and not has_scores:
        notes.append("Aesthetic scores have no effect: only the SDXL refiner reads them.")
    if extra_inputs(info.denoiser) == "edit" and request.denoise < 1:
        notes.append(
            f"{info.name} was made to start from noise alone, which it does at denoising strength 1; at "
            f"{request.denoise:g} the picture itself is the start, too."
        )
    return notes


def _check_refiner(info: CheckpointInfo, refiner: CheckpointInfo) -> None:
    """The refiner takes over in the middle of a latent: both mean the same by its numbers and by its noise."""
    numbers = ("channels", "scale", "shift", "means", "deviations")
    same = all(getattr(info.latent, name) == getattr(refiner.latent, name) for name in numbers)
    if not same or (info.prediction == "flow") != (refiner.prediction == "flow"):
        raise ModelUnsupported(
            f"{refiner.name} ({refiner.variant}) has another latent space than {info.name} ({info.variant}), whose "
            "steps it would go on with.",
            "Choose a refiner of the same family, or none.",
            field="refiner",
        )
    if extra_inputs(refiner.denoiser) == "edit":
        raise ModelUnsupported(
            f"{refiner.name} ({refiner.variant}) changes pictures and cannot take over another model's steps.",
            "Choose another refiner, or use it as the checkpoint.",
            field="refiner",
        )


def _check_skip_layers(request: GenerationRequest, info: CheckpointInfo) -> None:
    """Skip-layer guidance names layers that the denoiser has, in a window that is not empty."""
    if request.skip_layer_scale == 0:
        return
    if not isinstance(info.denoiser, MMDiTConfig):
        raise BadRequest(
            f"Skip-layer guidance leaves out layers of an MMDiT; {info.name} ({info.variant}) is a U-Net.",
            "Set the skip layer scale to 0, or choose an SD3 or SD3.5 checkpoint.",
            field="skip_layer_scale",
        )
    if request.skip_layer_start >= request.skip_layer_end:
        raise BadRequest(
            f"Skip-layer guidance ends at {request.skip_layer_end:g} of the steps, before it begins at "
            f"{request.skip_layer_start:g}.",
            "Set its end after its start, or its scale to 0.",
            field="skip_layer_end",
        )
    last = info.denoiser.depth - 1
    beyond = sorted(layer for layer in skip_layer_indices(request.skip_layers) if layer > last)
    if beyond:
        raise BadRequest(
            f"Skip layers names {beyond[0]}, but the last layer of {info.name} is {last}.",
            f"Accepted: 0 to {last}, with commas between.",
            field="skip_layers",
        )
