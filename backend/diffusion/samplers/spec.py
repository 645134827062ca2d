"""What a sampler is: a function from noise to a latent along a list of sigmas, and the row that lists it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, Protocol

from torch import Tensor

from backend.diffusion.noise import NoiseSource
from backend.diffusion.prediction import Prediction
from backend.parameters import Parameters

Denoiser = Callable[[Tensor, Tensor], Tensor]  # denoise(x, scalar sigma) -> denoised, guidance included
#: The clean latents of the latest call's branches, by name: "cond" (AND-joined prompts summed by weight), "uncond"
#: where the step has guidance, and those that patches added; where a mask keeps a part, that part is laid over each.
Branches = Callable[[], Mapping[str, Tensor]]


@dataclass(frozen=True, eq=False)
class StepState:
    """A step that is done.

    Args:
        index: 0 is the first step.
        sigma: the level at which the step began.
        x: the noisy latent after the step.
        denoised: the step's latest predicted clean latent (for the preview).
    """

    index: int
    sigma: float
    x: Tensor
    denoised: Tensor


OnStep = Callable[[StepState], None]


def intervals(sigmas: Tensor) -> Iterator[tuple[int, float, float]]:
    """(index, sigma, sigma_next) of each step, as Python floats: coefficients are made in float64 on the host."""
    levels = [float(sigma) for sigma in sigmas.unbind()]
    return ((i, sigma, sigma_next) for i, (sigma, sigma_next) in enumerate(pairwise(levels)))


class DeterministicSampler(Protocol):
    """A sampler that needs nothing but the denoiser."""

    def __call__(self, denoise: Denoiser, x: Tensor, sigmas: Tensor, *, on_step: OnStep) -> Tensor:
        """From ``x`` at ``sigmas[0]`` to the latent at ``sigmas[-1]``; ``sigmas`` fall, the last may be 0."""
        ...


class Sampler(Protocol):
    """Any sampler; one that adds noise takes ``alpha`` from the prediction and its noise from the source."""

    def __call__(
        self, denoise: Denoiser, x: Tensor, sigmas: Tensor, *, prediction: Prediction, noise: NoiseSource,
        on_step: OnStep,
    ) -> Tensor:  # fmt: skip
        """From ``x`` at ``sigmas[0]`` to the latent at ``sigmas[-1]``; ``sigmas`` fall, the last may be 0."""
        ...


@dataclass(frozen=True)
class SamplerSpec:
    """One sampler as lists show it.

    Args:
        name: as requests and metadata write it.
        label: as A1111 writes it.
        calls_per_step: denoiser calls a step (the last step may need fewer).
        converges: whether more steps lead to one picture; False where new noise enters at each step.
        default_schedule: what the schedule "automatic" means for eps and v models; "automatic" itself: no wish.
        parameters: what a user can set for it; ``run`` then takes an instance as the keyword ``parameters``.
        reads_branches: ``run`` then takes the keyword ``branches``, a ``Branches``: beside the guided clean latent of
            the latest ``denoise`` it sees those that were combined.
    """

    name: str
    label: str
    run: Callable[..., Tensor]  # a Sampler, or one that takes ``parameters`` besides
    calls_per_step: float
    converges: bool
    adds_noise: bool
    default_schedule: str
    parameters: type[Parameters] | None = None
    reads_branches: bool = False

    def with_parameters(self, parameters: Parameters | None) -> Callable[..., Tensor]:
        """``run`` with what the user set for it, or with its defaults; a sampler without parameters as it is."""
        if self.parameters is None:
            return self.run
        return partial(self.run, parameters=parameters or self.parameters())

    def to_json(self, owner: str = "") -> dict[str, Any]:
        """For the registry document; ``owner`` is the extension that brought it, "" for the core."""
        row: dict[str, Any] = {
            "name": self.name,
            "label": self.label,
            "calls_per_step": self.calls_per_step,
            "converges": self.converges,
            "adds_noise": self.adds_noise,
            "default_schedule": self.default_schedule,
        }
        return row | ({"owner": owner} if owner else {}) | ({"panel": self.name} if self.parameters else {})


def deterministic(
    name: str,
    label: str,
    sampler: DeterministicSampler,
    *,
    calls_per_step: float = 1,
    default_schedule: str = "automatic",
) -> SamplerSpec:
    """The row of a sampler that adds no noise."""

    def run(
        denoise: Denoiser, x: Tensor, sigmas: Tensor, *, prediction: Prediction, noise: NoiseSource,  # noqa: ARG001
        on_step: OnStep,
    ) -> Tensor:  # fmt: skip
        return sampler(denoise, x, sigmas, on_step=on_step)

    return SamplerSpec(name, label, run, calls_per_step, converges=True, adds_noise=False,
                       default_schedule=default_schedule)  # fmt: skip


def stochastic(
    name: str, label: str, sampler: Sampler, *, calls_per_step: float = 1, converges: bool = False,
    default_schedule: str = "automatic",
) -> SamplerSpec:  # fmt: skip
    """The row of a sampler that adds noise at each step."""
    return SamplerSpec(name, label, sampler, calls_per_step, converges, adds_noise=True,
                       default_schedule=default_schedule)  # fmt: skip
