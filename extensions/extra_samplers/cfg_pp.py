"""Euler CFG++: guidance moves the clean latent alone; the noise that goes back on it is the negative prompt's.

With the guided noise, as in plain CFG, a strong guidance leaves the data's manifold: burnt colours, and no way back.
Source: Chung et al. 2024, arXiv:2406.08070, algorithm 2; written with alpha, so that flow models are a case of it.
"""

from __future__ import annotations

from torch import Tensor

from backend.api import Branches, Denoiser, NoiseSource, OnStep, Parameters, Prediction, StepState, intervals, number
from extensions.extra_samplers.stochastic import raised


class CfgPlusPlusParameters(Parameters):
    """How the request's CFG scale becomes the paper's lambda."""

    share: float = number(
        0.08,
        low=0.01,
        high=1.0,
        label="Lambda per CFG scale",
        help="The paper's lambda is this times the CFG scale: 7.5 is its 0.6.",
    )


def point_and_noise(
    denoise: Denoiser, x: Tensor, sigma: Tensor, alpha: float, branches: Branches, share: float
) -> tuple[Tensor, Tensor]:
    """The clean latent of CFG++, and the unit noise that is in ``x`` by the negative prompt.

    Without a negative prompt's branch (CFG scale 1, a step outside the guidance's interval) nothing is guided: what is
    left is Euler's step.
    """
    guided = denoise(x, sigma)
    uncond = branches().get("uncond")
    point = guided if uncond is None else uncond + share * (guided - uncond)
    without = guided if uncond is None else uncond
    return point, (x - alpha * without) / float(sigma)


def sample_euler_cfg_pp(
    denoise: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    *,
    prediction: Prediction,
    noise: NoiseSource,
    on_step: OnStep,
    branches: Branches,
    parameters: CfgPlusPlusParameters,
) -> Tensor:
    """The CFG++ point with the negative prompt's noise at the next level."""
    del noise
    for i, sigma, sigma_next in intervals(sigmas):
        alpha = prediction.alpha(sigma)
        point, unit = point_and_noise(denoise, x, sigmas[i], alpha, branches, parameters.share)
        x = prediction.alpha(sigma_next) * point + sigma_next * unit
        on_step(StepState(i, sigma, x, point))
    return x


def sample_euler_cfg_pp_ancestral(
    denoise: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    *,
    prediction: Prediction,
    noise: NoiseSource,
    on_step: OnStep,
    branches: Branches,
    parameters: CfgPlusPlusParameters,
) -> Tensor:
    """The same to below the next level (sigma_next^2 / sigma, as with Euler a), and fresh noise up to it."""
    for i, sigma, sigma_next in intervals(sigmas):
        alpha = prediction.alpha(sigma)
        point, unit = point_and_noise(denoise, x, sigmas[i], alpha, branches, parameters.share)
        down = sigma_next**2 / sigma
        x = prediction.alpha(down) * point + down * unit
        if sigma_next > 0:
            x = raised(x, down, sigma_next, prediction, noise)
        on_step(StepState(i, sigma, x, point))
    return x
