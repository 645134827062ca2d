"""Whether the checkpoints that a request names can do what it asks; what they cannot is refused before it runs."""

from __future__ import annotations

import re

from backend.errors import BadRequest
from backend.formats.configs import CheckpointInfo, MMDiTConfig
from backend.request import GenerationRequest

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


def check_skip_layers(request: GenerationRequest, info: CheckpointInfo) -> None:
    """Skip-layer guidance names layers that the denoiser has.

    Raises:
        BadRequest: it has none that could be left out, or not these; the window is empty.
    """
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
