"""A branch for each part of the prompt, and their clean latents put together by share: exact, and dearer.

The first part that counts is read by the branch that is there anyway. Branches of other extensions read all parts at
once, so that what they guide away from is the same picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from backend.api import AddBranch, BeforeGuidance, Outputs, Patch, Scope, region_map
from extensions.regions.steps import Texts, alone


def branch_patches(texts: Texts, numbers: Sequence[int], shares: Tensor, steps: int, until: float) -> list[Patch]:
    """Each part by itself.

    Args:
        numbers: of the parts that count anywhere.
        shares: (parts, h, w), how much each counts where; they sum to 1.
    """
    branches = {number: f"region {number}" if place else "cond" for place, number in enumerate(numbers)}
    window = Scope(end=until)

    def mixed(outputs: Outputs) -> Mapping[str, Tensor]:
        def at_size(share: Tensor) -> Tensor:
            return region_map(share, outputs.x.shape[2], outputs.x.shape[3]).to(outputs.x)

        parts = [outputs.denoised[branch] * at_size(shares[number]) for number, branch in branches.items()]
        return {"cond": sum(parts[1:], parts[0])}

    patches: list[Patch] = [
        AddBranch(branch=branch, scope=window, label=branch) for branch in branches.values() if branch != "cond"
    ]
    for number, branch in branches.items():
        patches += alone(texts.parts[number], branch, texts, steps, until)
    return [*patches, BeforeGuidance(change=mixed, scope=window, label="regions put together")]
