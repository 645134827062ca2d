"""EDM networks (Karras et al. 2022, arXiv:2206.00364): continuous noise levels and preconditioned outputs.

As for the discrete kinds, ``x`` is ``latent + sigma * noise``; the network is told c_noise = 0.25 ln sigma and sees
c_in * x, and ``denoised`` is c_skip * x + c_out * output (section 5, table 1). There is no trained table: ``sigmas``
stands in for one with 1000 levels even in log sigma, so that every schedule is defined. "Normal", "SGM uniform" and
"simple" are therefore spaced evenly in log sigma between the ends, as "exponential" is; Karras is the paper's own.
"""

# ruff: noqa: D102 - the docstrings of the Protocol hold for its implementations
from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from backend.diffusion.prediction import TIMESTEPS, PredictionKind, per_image, same_shape


@dataclass(frozen=True)
class EdmPrediction:
    """The network outputs F of the paper: denoised = c_skip * x + c_out * F (Playground 2.5).

    Args:
        sigma_min, sigma_max: ends of the noise levels; 0 < sigma_min < sigma_max.
        sigma_data: standard deviation of the clean latent.
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    sigma_data: float = 0.5
    kind: PredictionKind = field(default="edm", init=False)
    sigmas: Tensor = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not 0 < self.sigma_min < self.sigma_max:
            raise ValueError(f"noise levels from {self.sigma_min} to {self.sigma_max} do not rise from above 0")
        ends = math.log(self.sigma_min), math.log(self.sigma_max)
        object.__setattr__(self, "sigmas", torch.linspace(*ends, TIMESTEPS, dtype=torch.float64).exp())

    def timestep(self, sigma: Tensor) -> Tensor:
        return (0.25 * sigma.detach().to("cpu", torch.float64).log()).to(sigma.device, torch.float32)

    def sigma(self, timestep: Tensor) -> Tensor:
        return (4 * timestep).exp().float()

    def schedule_sigma(self, timestep: Tensor) -> Tensor:
        return (4 * timestep.detach().to("cpu", torch.float64)).exp()

    def input_scale(self, sigma: Tensor) -> Tensor:
        return (sigma**2 + self.sigma_data**2).rsqrt()

    def denoised(self, output: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
        level = per_image(sigma, x)
        return self._skip(level) * x + self._out(level) * output.to(x.dtype)

    def target(self, latent: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        same_shape(latent, noise)
        level = per_image(sigma, latent)
        return (latent - self._skip(level) * (latent + level * noise)) / self._out(level)

    def add_noise(self, latent: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        same_shape(latent, noise)
        return latent + noise * per_image(sigma, latent)

    def start(self, noise: Tensor, sigma: Tensor) -> Tensor:
        return noise * per_image(sigma, noise)

    def alpha(self, sigma: float) -> float:  # noqa: ARG002 - the same for every level
        return 1.0

    def half_log_snr(self, sigma: float) -> float:
        return -math.log(sigma)

    def sigma_at(self, half_log_snr: float) -> float:
        return math.exp(-half_log_snr)

    def _skip(self, level: Tensor) -> Tensor:
        return self.sigma_data**2 / (level**2 + self.sigma_data**2)

    def _out(self, level: Tensor) -> Tensor:
        return level * self.sigma_data * (level**2 + self.sigma_data**2).rsqrt()


@dataclass(frozen=True)
class EdmVPrediction(EdmPrediction):
    """The same with v, whose sign is the opposite: denoised = c_skip * x - c_out * v (CosXL).

    With sigma_data 1 it is v-prediction's formula; only what the network is told of sigma differs.
    Source: Comfy-Org/ComfyUI ``model_sampling.py``, diffusers ``EDMEulerScheduler`` (prediction_type v_prediction).
    """

    sigma_max: float = 120.0
    sigma_data: float = 1.0
    kind: PredictionKind = field(default="edm_v", init=False)

    def _out(self, level: Tensor) -> Tensor:
        return -super()._out(level)
