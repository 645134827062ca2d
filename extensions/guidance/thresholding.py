"""Dynamic thresholding: a high CFG scale's latent brought into the range that a lower scale, the mimic one, gives.

Source: Saharia et al. 2022, arXiv:2205.11487, section 2.3 (the percentile); on latents with a mimic scale as in
mcmonkeyprojects/sd-dynamic-thresholding: each channel around its own mean.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from backend.api import AfterGuidance, Outputs, Parameters, Patch, number


class ThresholdingParameters(Parameters):
    """Which range, and how much of it."""

    mimic_scale: float = number(5.0, low=0.0, high=30.0, step=0.5, label="Mimic scale", help="Below the CFG scale.")
    percentile: float = number(
        0.99, low=0.5, high=1.0, step=0.001, label="Percentile", help="Of each channel's values; those beyond are cut."
    )
    amount: float = number(1.0, low=0.0, high=1.0, label="Amount")


def thresholding_patches(parameters: ThresholdingParameters) -> list[Patch]:
    """One change of the guided latent, after every other term."""
    if parameters.amount == 0:
        return []
    return [AfterGuidance(change=thresholded(parameters), label="dynamic threshold")]


def thresholded(parameters: ThresholdingParameters) -> Callable[[Tensor, Outputs], Tensor]:
    """Where the mimic scale is not below the step's CFG scale, nothing is to be done."""

    def change(guided: Tensor, outputs: Outputs) -> Tensor:
        uncond = outputs.denoised.get("uncond")
        if uncond is None or outputs.scale <= parameters.mimic_scale:
            return guided
        mimic = uncond + parameters.mimic_scale * (outputs.denoised["cond"] - uncond)
        changed = in_range_of(guided, mimic, parameters.percentile)
        return changed if parameters.amount == 1 else torch.lerp(guided, changed, parameters.amount)

    return change


def in_range_of(guided: Tensor, mimic: Tensor, percentile: float) -> Tensor:
    """Cut each channel at its percentile, and scale it so that the cut falls on the mimic's largest value."""
    mean = guided.mean(dim=(2, 3), keepdim=True)
    centred = guided - mean
    largest = (mimic - mimic.mean(dim=(2, 3), keepdim=True)).abs().amax(dim=(2, 3), keepdim=True)
    cut = centred.abs().flatten(2).float().quantile(percentile, dim=2).to(guided)[..., None, None]
    cut = torch.maximum(cut, largest)  # a range that is narrower already stays
    return mean + centred.clamp(-cut, cut) * (largest / cut)
