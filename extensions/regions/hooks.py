"""The panel, the patches of a job, and where its regions' LoRAs act."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from backend.api import (
    AdapterChoice,
    AttentionBias,
    Foresight,
    JobView,
    ModelView,
    PanelSpec,
    Patch,
    Scope,
    hookimpl,
    region_map,
)
from extensions.regions.attention import RegionalBias
from extensions.regions.latent import branch_patches
from extensions.regions.layout import drawn_masks, extents, feathered, read_weights, shares, split_masks
from extensions.regions.parameters import DRAWN, RegionsParameters
from extensions.regions.prompts import Split, check_prompts, is_common, split_prompt, texts_of
from extensions.regions.steps import encoded, together

_CELL = 8  # pixels


@hookimpl
def register_panels() -> Sequence[PanelSpec]:
    """One panel, for every family."""
    return [
        PanelSpec(
            "regions",
            "Regions",
            RegionsParameters,
            help="A prompt for each part of the picture: a red heart BREAK a green frog. Masks can be painted below.",
            folded=("weights", "isolation", "feather", "until", *DRAWN),
        )
    ]


@hookimpl
def scope_adapters(job: JobView, choices: Sequence[AdapterChoice]) -> Sequence[AdapterChoice] | None:
    """A LoRA in a region's part of the prompt acts in that region."""
    panel = job.values.get("regions")
    if not isinstance(panel, RegionsParameters):
        return None
    masks = masks_of(panel, job, (job.request.height or _CELL) // _CELL, (job.request.width or _CELL) // _CELL)
    split = split_prompt(job.request.prompt, panel.split, len(masks))

    def placed(choice: AdapterChoice) -> AdapterChoice:
        number = split.region_at(choice.at) if choice.field == "prompt" else None
        if number is None:
            return choice
        region = masks[number]
        if choice.region is not None:  # a box of the tag's own: what lies in both
            region = region * region_map(choice.region, *region.shape)[0, 0].to(region)
        return replace(choice, region=region)

    return [placed(choice) for choice in choices]


@hookimpl
def foresee_job(job: JobView) -> Foresight | None:
    """In latent mode an evaluation for each part of the prompt but the first."""
    panel = job.values.get("regions")
    if not isinstance(panel, RegionsParameters) or panel.mode != "latent":
        return None
    masks = masks_of(panel, job, (job.request.height or _CELL) // _CELL, (job.request.width or _CELL) // _CELL)
    counted = _counted(panel, masks, split_prompt(job.request.prompt, panel.split, len(masks)))
    more = sum(bool(share.any()) for share in counted) - 1
    return Foresight(branches=[(0.0, panel.until)] * more)


@hookimpl
def patch_job(job: JobView, model: ModelView) -> Sequence[Patch]:
    """The parts' prompts in place of the whole one, and who sees which; in latent mode a branch for each."""
    panel = job.values.get("regions")
    if not isinstance(panel, RegionsParameters):
        return []
    check_prompts(job.request)
    masks = masks_of(panel, job, *model.latent[1:])
    patches = _reading(panel, model, masks, split_prompt(job.request.prompt, panel.split, len(masks)))
    negative = job.request.negative_prompt
    if not is_common(negative, panel.split):
        split = split_prompt(negative, panel.split, len(masks), "negative prompt")
        patches += _reading(panel, model, masks, split, negative=True)
    return patches


def masks_of(panel: RegionsParameters, job: JobView, height: int, width: int) -> Tensor:
    """Where the regions are, (R, height, width), in cells. Raises ``BadRequest``."""
    drawn = [job.mask(sha) for name in DRAWN if (sha := getattr(panel, name))]
    masks = drawn_masks(drawn, height, width) if drawn else split_masks(panel.layout, height, width)
    return feathered(masks, panel.feather / _CELL)


def _has_base(panel: RegionsParameters, split: Split) -> bool:
    return split.first is not None and panel.first == "base"


def _counted(panel: RegionsParameters, masks: Tensor, split: Split) -> Tensor:
    """How much each part of a prompt counts where."""
    base = panel.base_share if _has_base(panel, split) else None
    return shares(masks, read_weights(panel.weights, len(masks)), base)


def _reading(
    panel: RegionsParameters, model: ModelView, masks: Tensor, split: Split, *, negative: bool = False
) -> list[Patch]:
    """What branches with the positive, or negative, prompt read."""
    counted = _counted(panel, masks, split)
    bias = RegionalBias(counted, extents(masks, has_base=_has_base(panel, split)), panel.isolation)
    acting = [number for number, share in enumerate(counted) if bool(share.any())]
    texts = encoded(texts_of(split, panel.first), model, negative=negative)
    patches = together(texts, acting, bias, model.steps, panel.until, negative=negative)
    if panel.mode == "latent" and not negative:
        patches += branch_patches(texts, acting, counted, model.steps, panel.until)
    window = Scope(attentions=("cross", "joint"), end=panel.until)
    return [*patches, AttentionBias(bias=bias, scope=window, label="sight of the regions", in_tiles=True)]
