"""CFG-Zero*: CFG for flow models whose velocities are off: uncond is scaled to fit, the first steps stand still.

Source: Fan et al. 2025, arXiv:2503.18886, algorithm 1.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from backend.api import AfterGuidance, BeforeGuidance, Outputs, Parameters, Patch, flag, whole


class CfgZeroParameters(Parameters):
    """Its two halves."""

    scaled: bool = flag(True, label="Fit the negative prompt's velocity")
    zero_steps: int = whole(0, low=0, high=10, label="Steps that stand still", help="The paper: 1, of 28 or more.")


def fitting_patches(parameters: CfgZeroParameters) -> list[Patch]:
    """The scale, before the combination."""
    return [BeforeGuidance(change=fitted, label="fitted velocity")] if parameters.scaled else []


def stopping_patches(parameters: CfgZeroParameters) -> list[Patch]:
    """No velocity in the first steps, (x - denoised) / sigma = 0; last of all that follows the combination."""

    def stop(guided: Tensor, outputs: Outputs) -> Tensor:
        return outputs.x if outputs.step < parameters.zero_steps else guided

    return [AfterGuidance(change=stop, label="zero velocity")] if parameters.zero_steps else []


def fitted(outputs: Outputs) -> Mapping[str, Tensor]:
    """The uncond velocity times s = <cond, uncond> / <uncond, uncond>, image by image, as a clean latent again."""
    uncond = outputs.denoised.get("uncond")
    if uncond is None:
        return {}
    v_cond, v_uncond = ((outputs.x - latent) / outputs.sigma for latent in (outputs.denoised["cond"], uncond))
    dot = (v_cond * v_uncond).sum(dim=(1, 2, 3), keepdim=True)
    scale = dot / v_uncond.square().sum(dim=(1, 2, 3), keepdim=True).clamp(min=1e-8)
    return {"uncond": outputs.x - outputs.sigma * scale * v_uncond}
