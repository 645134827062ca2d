"""Regional Prompter's core, its latent mode: each part between BREAKs is a branch, and a mask says where it counts."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from backend.api import (
    AddBranch,
    BadRequest,
    BeforeGuidance,
    ChangeConditioning,
    Conditioning,
    JobView,
    ModelView,
    Outputs,
    PanelSpec,
    Parameters,
    Patch,
    Scope,
    hookimpl,
    text,
)


class Regional(Parameters):
    """How the columns are divided."""

    ratios: str = text("1,1", longest=100, label="Ratios", help="A number for each column.")


@hookimpl
def register_panels() -> list[PanelSpec]:
    """One panel."""
    return [PanelSpec("regional", "Regional prompts", Regional)]


@hookimpl
def patch_job(job: JobView, model: ModelView) -> list[Patch]:
    """A branch for each part but the first, which the ordinary one evaluates; and their latents side by side."""
    values = job.values["regional"]
    if not isinstance(values, Regional):
        return []
    parts = [part.strip() for part in job.request.prompt.split("BREAK")]
    masks = _columns(values.ratios, model.latent[2]).to(model.device)
    if len(masks) != len(parts):
        raise BadRequest(
            f"There are {len(parts)} parts and {len(masks)} ratios.", "Write one for each.", field="extensions"
        )
    names = ["cond", *(f"region.{number}" for number in range(1, len(parts)))]
    prompts = {name: model.encode(part) for name, part in zip(names, parts, strict=True)}

    def own(_conditioning: Conditioning, branch: str) -> Conditioning:
        return prompts[branch]

    def side_by_side(outputs: Outputs) -> Mapping[str, Tensor]:
        whole = sum(outputs.denoised[name] * mask for name, mask in zip(names, masks, strict=True))
        return {"cond": whole} if isinstance(whole, Tensor) else {}

    return [
        *(AddBranch(branch=name) for name in names[1:]),
        ChangeConditioning(change=own, scope=Scope(branches=tuple(names)), label="prompts"),
        BeforeGuidance(change=side_by_side, label="columns"),
    ]


def _columns(ratios: str, width: int) -> Tensor:
    """One mask for each ratio, (columns, 1, width); they add up to 1."""
    shares = torch.tensor([float(ratio) for ratio in ratios.split(",")])
    ends = (shares.cumsum(0) / shares.sum() * width).round()
    places = torch.arange(width)
    begins = torch.cat([torch.zeros(1), ends[:-1]])
    return ((places >= begins[:, None]) & (places < ends[:, None])).float()[:, None]
