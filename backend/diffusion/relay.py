"""Several networks in one run of a sampler, each for its share of the steps: SDXL's base and refiner."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from backend.diffusion.denoiser import GuidedDenoiser
from backend.diffusion.masking import KeepUnmasked
from backend.diffusion.samplers.spec import Denoiser, OnStep, StepState


@dataclass(frozen=True, eq=False)
class Leg:
    """One network's share.

    Args:
        until: the first step that is not its own.
        make: builds its guided denoiser, and that with what lies around it (a mask's kept part).
    """

    until: int
    make: Callable[[], tuple[GuidedDenoiser, Denoiser]]


class Relay:
    """``denoise(x, sigma)`` of one network after the other, over one schedule.

    The sampler does not know of it, so what it remembers of earlier steps goes on, as in A1111. All calls of a step go
    to one network (A1111 looks at each call's sigma). A network is made when its first step comes, after the one before
    was let go, so that one at a time need be in memory.

    Args:
        legs: in order; the last one takes every step that is left.
    """

    def __init__(self, legs: Sequence[Leg]) -> None:
        self._waiting = list(legs)
        self._until = 0
        self._now: tuple[GuidedDenoiser, Denoiser] | None = None
        self.step = 0  # index of the step that is being made

    def counting(self, on_step: OnStep) -> OnStep:
        """The ``on_step`` to give to the sampler: moves on to the next step, then calls ``on_step``."""

        def counted(state: StepState) -> None:
            self.step = state.index + 1
            on_step(state)

        return counted

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        """As ``GuidedDenoiser``, of the network whose step it is."""
        if self._waiting and self.step >= self._until:
            self._now = None
            leg = self._waiting.pop(0)
            self._until, self._now = leg.until, leg.make()
        if self._now is None:
            raise ValueError("a relay needs at least one leg")
        guided, denoise = self._now
        guided.step = self.step
        return denoise(x, sigma)

    def branches(self) -> Mapping[str, Tensor]:
        """The clean latents of the latest call's branches, by name ("cond", "uncond"), kept parts laid over them."""
        if self._now is None:
            raise ValueError("no network was called yet")
        guided, denoise = self._now
        lay = denoise.lay_over if isinstance(denoise, KeepUnmasked) else None
        return {name: lay(latent) if lay else latent for name, latent in guided.branches.items()}
