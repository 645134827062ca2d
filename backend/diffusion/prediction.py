"""What a network's output means: eps, v or velocity, each turned into ``denoised``; EDM's kinds are in ``edm.py``.

Only these two files know timesteps. Inside the samplers ``x`` is ``latent + sigma * noise`` for discrete models (eps,
v: the variance-exploding form, which the network sees scaled by ``input_scale``) and for EDM, and
``(1 - sigma) * latent + sigma * noise`` for rectified flow. In all, ``dx/dsigma = (x - denoised) / sigma``.
"""

# ruff: noqa: D102 - the docstrings of the Protocol hold for its implementations
from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor

PredictionKind = Literal["eps", "v", "flow", "edm", "edm_v"]

TIMESTEPS = 1000
# Last alpha_bar of a zero-terminal-SNR table, which would be 0: A1111 and ComfyUI write this value, sigma 4518.76.
ZERO_SNR_ALPHA_BAR = 4.8973451890853435e-08


class Prediction(Protocol):
    """How one kind of network output is read, and which noise levels it was trained on.

    ``sigma`` is a scalar tensor, or (B,) with one level an image (training).
    """

    @property
    def kind(self) -> PredictionKind:
        """The name that checkpoints and metadata use."""
        ...

    @property
    def sigmas(self) -> Tensor:
        """The trained noise levels, rising, (1000,) float64, on the CPU; EDM has ends only, and 1000 between them."""
        ...

    @property
    def sigma_min(self) -> float:
        """The lowest of ``sigmas``."""
        ...

    @property
    def sigma_max(self) -> float:
        """The highest of ``sigmas``; 1 for flow."""
        ...

    def timestep(self, sigma: Tensor) -> Tensor:
        """What the network is told at ``sigma``, float32: 0..999; flow: 1000 sigma; EDM: ln(sigma) / 4."""
        ...

    def sigma(self, timestep: Tensor) -> Tensor:
        """The inverse of ``timestep``, float32."""
        ...

    def schedule_sigma(self, timestep: Tensor) -> Tensor:
        """The sigma that an even spacing of timesteps means, float64: ``sigma``, for flow with the shift applied."""
        ...

    def input_scale(self, sigma: Tensor) -> Tensor:
        """The factor on ``x`` before it enters the network."""
        ...

    def denoised(self, output: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
        """The clean latent that the network's ``output`` at ``x`` means; dtype of ``x``."""
        ...

    def target(self, latent: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        """The output that training asks for: ``denoised(target, add_noise(...), sigma)`` is ``latent``."""
        ...

    def add_noise(self, latent: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        """Mix a clean latent with unit noise of the same shape at level ``sigma``."""
        ...

    def start(self, noise: Tensor, sigma: Tensor) -> Tensor:
        """The ``x`` that sampling from nothing begins with, at the schedule's first ``sigma``."""
        ...

    def alpha(self, sigma: float) -> float:
        """The share of the clean latent in ``x``: 1 - sigma for flow, else 1."""
        ...

    def half_log_snr(self, sigma: float) -> float:
        """log(alpha / sigma), falling in sigma; flow: sigma below 1 (there it is -infinity)."""
        ...

    def sigma_at(self, half_log_snr: float) -> float:
        """The inverse of ``half_log_snr``."""
        ...


@dataclass(frozen=True)
class _DiscretePrediction:
    """What eps and v share: Stable Diffusion's table of 1000 levels, sigma = sqrt((1 - alpha_bar) / alpha_bar)."""

    zero_terminal_snr: bool = False
    sigmas: Tensor = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sigmas", discrete_sigmas(zero_terminal_snr=self.zero_terminal_snr))

    @property
    def sigma_min(self) -> float:
        return float(self.sigmas[0])

    @property
    def sigma_max(self) -> float:
        return float(self.sigmas[-1])

    def timestep(self, sigma: Tensor) -> Tensor:
        # Linear between table points in log sigma, as k-diffusion and A1111 do; on the CPU, for MPS has no float64.
        table = self.sigmas.log()
        value = sigma.detach().to("cpu", torch.float64).clamp(min=self.sigma_min, max=self.sigma_max).log()
        low = (torch.searchsorted(table, value, right=True) - 1).clamp(0, len(table) - 2)
        share = (value - table[low]) / (table[low + 1] - table[low])
        return (low + share).to(sigma.device, torch.float32)

    def sigma(self, timestep: Tensor) -> Tensor:
        return self.schedule_sigma(timestep).to(timestep.device, torch.float32)

    def schedule_sigma(self, timestep: Tensor) -> Tensor:
        table = self.sigmas.log()
        position = timestep.detach().to("cpu", torch.float64).clamp(0, len(table) - 1)
        low = position.floor().long().clamp(max=len(table) - 2)
        return torch.lerp(table[low], table[low + 1], position - low).exp()

    def input_scale(self, sigma: Tensor) -> Tensor:
        return (sigma**2 + 1).rsqrt()

    def add_noise(self, latent: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        same_shape(latent, noise)
        return latent + noise * per_image(sigma, latent)

    def start(self, noise: Tensor, sigma: Tensor) -> Tensor:
        # With a zero-terminal-SNR table the network saw x / sqrt(1 + sigma^2) of unit variance at the top.
        scale = (sigma**2 + 1).sqrt() if self.zero_terminal_snr else sigma
        return noise * per_image(scale, noise)

    def alpha(self, sigma: float) -> float:  # noqa: ARG002 - the same for every level
        return 1.0

    def half_log_snr(self, sigma: float) -> float:
        return -math.log(sigma)

    def sigma_at(self, half_log_snr: float) -> float:
        return math.exp(-half_log_snr)


@dataclass(frozen=True)
class EpsPrediction(_DiscretePrediction):
    """The network outputs the noise: denoised = x - sigma * eps (Ho et al. 2020, arXiv:2006.11239)."""

    kind: PredictionKind = field(default="eps", init=False)

    def denoised(self, output: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
        return x - per_image(sigma, x) * output.to(x.dtype)

    def target(self, latent: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:  # noqa: ARG002 - the noise at any level
        same_shape(latent, noise)
        return noise


@dataclass(frozen=True)
class VPrediction(_DiscretePrediction):
    """The network outputs v = alpha * noise - sigma * latent in variance-preserving terms.

    denoised = x / (sigma^2 + 1) - v * sigma / sqrt(sigma^2 + 1).
    Source: Salimans and Ho 2022, arXiv:2202.00512, appendix D.
    """

    kind: PredictionKind = field(default="v", init=False)

    def denoised(self, output: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
        level = per_image(sigma, x)
        return x / (level**2 + 1) - output.to(x.dtype) * (level * (level**2 + 1).rsqrt())

    def target(self, latent: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        same_shape(latent, noise)
        level = per_image(sigma, latent)
        return (noise - level * latent) * (level**2 + 1).rsqrt()


@dataclass(frozen=True)
class FlowPrediction:
    """Rectified flow: the network outputs the velocity noise - latent; denoised = x - sigma * velocity.

    Args:
        shift: moves the schedules towards high noise, sigma = shift t / (1 + (shift - 1) t); above 0, SD3.5: 3.

    Source: Esser et al. 2024, arXiv:2403.03206, sections 2 and 5.3.2 (resolution-dependent shifting).
    """

    shift: float = 3.0
    kind: PredictionKind = field(default="flow", init=False)
    sigmas: Tensor = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.shift > 0:
            raise ValueError(f"shift is {self.shift}; it must be above 0")
        steps = torch.arange(1, TIMESTEPS + 1, dtype=torch.float64)
        object.__setattr__(self, "sigmas", self.schedule_sigma(steps))

    @property
    def sigma_min(self) -> float:
        return float(self.sigmas[0])

    @property
    def sigma_max(self) -> float:
        return float(self.sigmas[-1])

    def timestep(self, sigma: Tensor) -> Tensor:
        return (sigma * TIMESTEPS).to(torch.float32)

    def sigma(self, timestep: Tensor) -> Tensor:
        return (timestep / TIMESTEPS).to(torch.float32)

    def schedule_sigma(self, timestep: Tensor) -> Tensor:
        time = timestep.detach().to("cpu", torch.float64) / TIMESTEPS
        return self.shift * time / (1 + (self.shift - 1) * time)

    def input_scale(self, sigma: Tensor) -> Tensor:
        return torch.ones_like(sigma)

    def denoised(self, output: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
        return x - per_image(sigma, x) * output.to(x.dtype)

    def target(self, latent: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:  # noqa: ARG002 - the same at any level
        same_shape(latent, noise)
        return noise - latent

    def add_noise(self, latent: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        same_shape(latent, noise)
        level = per_image(sigma, latent)
        return (1 - level) * latent + level * noise

    def start(self, noise: Tensor, sigma: Tensor) -> Tensor:
        return noise * per_image(sigma, noise)

    def alpha(self, sigma: float) -> float:
        return 1.0 - sigma

    def half_log_snr(self, sigma: float) -> float:
        return math.log1p(-sigma) - math.log(sigma)

    def sigma_at(self, half_log_snr: float) -> float:
        return 1.0 / (1.0 + math.exp(half_log_snr))


def discrete_sigmas(*, zero_terminal_snr: bool = False) -> Tensor:
    """Stable Diffusion's noise levels, rising, (1000,) float64: .029167 to 14.614641.

    With ``zero_terminal_snr`` the table is stretched so that its last level is (all but) pure noise, 4518.76.
    Source: "scaled linear" betas of CompVis/latent-diffusion; Lin et al. 2023, arXiv:2305.08891, algorithm 1.
    """
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, TIMESTEPS, dtype=torch.float64) ** 2
    alpha_bar = (1 - betas).cumprod(0)
    if zero_terminal_snr:
        root = alpha_bar.sqrt()
        alpha_bar = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
        alpha_bar[-1] = ZERO_SNR_ALPHA_BAR
    return ((1 - alpha_bar) / alpha_bar).sqrt()


def per_image(sigma: Tensor, x: Tensor) -> Tensor:
    """``sigma`` ready to multiply ``x``: a scalar as it is, (B,) as (B, 1, 1, 1) of dtype and device of ``x``."""
    if sigma.ndim == 0:
        return sigma
    return sigma.to(x.device, x.dtype).reshape(-1, *[1] * (x.ndim - 1))


def same_shape(latent: Tensor, noise: Tensor) -> None:
    """Refuse a latent and noise of different shapes (ValueError)."""
    if latent.shape != noise.shape:
        raise ValueError(f"latent {tuple(latent.shape)} and noise {tuple(noise.shape)} differ in shape")
