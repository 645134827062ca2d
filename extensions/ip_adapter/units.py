"""A unit as a patch: its picture through its encoder and adapter, in its steps, blocks and part of the picture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from PIL import Image
from torch import Tensor

from backend.api import (
    AttentionOutput,
    BadRequest,
    Family,
    JobView,
    ModelUnsupported,
    ModelView,
    NetworkFile,
    NotFound,
    Patch,
    Place,
    Scope,
    check_window,
)
from extensions.ip_adapter.adapter import Adapter, AdapterInfo, JointLayer, UNetLayer, build_adapter, read_adapter
from extensions.ip_adapter.attention import CrossImages, HeadWeights, JointImages
from extensions.ip_adapter.choosing import adapter_of, naming, vision_of
from extensions.ip_adapter.fit import attentions_of, blocks_of
from extensions.ip_adapter.parameters import UnitParameters
from extensions.ip_adapter.pictures import picture_of, region_of
from extensions.ip_adapter.preprocessing import pixels_for
from extensions.ip_adapter.vision import Vision, build_vision

FAMILIES: tuple[Family, ...] = ("sdxl", "sd3", "sd1")


def unit_patches(unit: UnitParameters, label: str, job: JobView, model: ModelView) -> list[Patch]:
    """The patch of a unit; none where it would change nothing.

    Raises:
        BadRequest, NotFound, ModelUnsupported: something is missing or contradicts itself, or files do not fit; the
            unit is named.
    """
    if model.info.family not in FAMILIES:
        job.note(f"{label} acts on the checkpoint, not on the refiner.")
        return []
    check_window(label, unit.start, unit.end)
    info = adapter_of(unit, label, model)
    blocks = blocks_of(unit.weight_type, model)
    region = region_of(unit, job, model.start)
    picture = picture_of(unit, label, job, model.start)
    if unit.weight == 0 or (region is not None and not bool(region.any())):
        job.note(f"{label} changes nothing: its {'weight is 0' if unit.weight == 0 else 'region is empty'}.")
        return []
    seen = _seen(unit, label, info, picture, model)
    adapter = cast("Adapter", _network(model, "ip_adapter", unit.adapter, label))
    change = (_joint if info.kind.is_joint else _cross)(adapter, seen, unit.weight, model)
    scope = Scope(blocks=blocks, attentions=("cross", "joint"), start=unit.start, end=unit.end, region=region)
    return [AttentionOutput(change=change, scope=scope, label=label, in_tiles=True)]


def foreseen_networks(unit: UnitParameters, label: str, job: JobView) -> list[NetworkFile]:
    """The files that ``unit_patches`` will make networks of, from headers; what cannot be used is refused there."""
    try:
        info = read_adapter(job.shapes("ip_adapter", unit.adapter))
        vision, _ = vision_of(unit, label, info, job)
    except (BadRequest, NotFound, ModelUnsupported):
        return []
    return [NetworkFile("ip_adapter", unit.adapter, build_adapter), NetworkFile("clip_vision", vision, build_vision)]


def _seen(unit: UnitParameters, label: str, info: AdapterInfo, picture: Image.Image, model: ModelView) -> Tensor:
    """What the encoder says of the picture, and what stands for none, (2, ...)."""
    name, told = vision_of(unit, label, info, model)
    vision = cast("Vision", _network(model, "clip_vision", name, label))
    dtype = next(vision.parameters()).dtype
    pixels = pixels_for(picture, told.look, told.side).to(model.device, dtype)
    with torch.inference_mode():
        if info.kind.reads == "embeds":
            given = vision.embeds(pixels)
            return torch.cat([given, torch.zeros_like(given)])
        given = vision.states(pixels)
        none = torch.zeros_like(given) if info.kind.is_joint else vision.states(torch.zeros_like(pixels))
        return torch.cat([given, none])


def _network(model: ModelView, folder: str, file: str, label: str) -> torch.nn.Module:
    try:
        return model.own_network(folder, file, build_adapter if folder == "ip_adapter" else build_vision)
    except ModelUnsupported as error:
        raise naming(error, label, file) from None


def _cross(adapter: Adapter, seen: Tensor, weight: float, model: ModelView) -> CrossImages:
    with torch.inference_mode():
        tokens = adapter.image_proj(seen)
    return CrossImages(cast("Mapping[Place, UNetLayer]", _by_place(adapter, model)), tokens, weight)


def _joint(adapter: Adapter, seen: Tensor, weight: float, model: ModelView) -> JointImages:
    has_norms = bool(getattr(model.info.denoiser, "qk_norm", False))

    def tokens(sigma: float) -> tuple[Tensor, Tensor]:
        timestep = model.prediction.timestep(torch.tensor(sigma)).to(seen.device)
        return adapter.image_proj(seen, timestep.expand(2))

    def own(place: Place) -> HeadWeights:
        attention = f"joint_blocks.{place.number}.x_block.attn"
        if not has_norms:
            return HeadWeights(None, None)
        return HeadWeights(model.weight(f"{attention}.ln_q.weight"), model.weight(f"{attention}.ln_k.weight"))

    return JointImages(cast("Mapping[Place, JointLayer]", _by_place(adapter, model)), tokens, own, weight)


def _by_place(adapter: Adapter, model: ModelView) -> Mapping[Place, torch.nn.Module]:
    """Its layers, which stand in the file in the order of their numbers."""
    return dict(zip(attentions_of(model), adapter.ip_adapter.values(), strict=True))
