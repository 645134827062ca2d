"""Consistency sampling: jump to the clean latent, add noise of the next level, again."""

from __future__ import annotations

from torch import Tensor

from backend.diffusion.noise import NoiseSource
from backend.diffusion.prediction import Prediction
from backend.diffusion.samplers.spec import Denoiser, OnStep, StepState, intervals


def sample_lcm(
    denoise: Denoiser, x: Tensor, sigmas: Tensor, *, prediction: Prediction, noise: NoiseSource, on_step: OnStep
) -> Tensor:
    """Luo et al. 2023, arXiv:2310.04378, algorithm 3, for distilled models.

    The boundary scalings c_skip and c_out are taken as 0 and 1; at the timesteps of use they differ by under 1e-5.
    """
    for i, sigma, sigma_next in intervals(sigmas):
        denoised = denoise(x, sigmas[i])
        x = denoised if sigma_next == 0 else prediction.add_noise(denoised, noise.step(), sigmas[i + 1])
        on_step(StepState(i, sigma, x, denoised))
    return x
