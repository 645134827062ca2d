"""The patch around the sampling of a batch: what it begins from, and what becomes of where it ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from torch import Tensor

from backend.diffusion.patching import Patch

Sample = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class SamplingStart:
    """What the sampling of a batch begins from.

    Attributes:
        sigmas: (steps + 1,), falling; the first is where ``x`` stands.
        noise: (B, C, h, w), unit variance: the initial noise of the pictures' seeds.
        init: (1, C, h, w), the picture that the job starts from, in denoiser units; None: there is none.
        denoise: ``denoise(x, sigma)`` -> the guided clean latent, as the sampler asks for it, patches included: of
            the first step before ``run``, of the last one after it.
    """

    sigmas: Tensor
    noise: Tensor
    init: Tensor | None
    denoise: Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True, eq=False)
class AroundSampling(Patch):
    """Go around the sampling of a batch: ``wrap(x, start, run)`` -> (B, C, h, w), the latent that is decoded.

    ``x`` is noise, or the picture with noise on it; ``run(x)`` is all of the sampler's steps, and can be had once.
    """

    wrap: Callable[[Tensor, SamplingStart, Sample], Tensor]
    in_network: ClassVar[bool] = False


def around_sampling(run: Sample, patches: Sequence[AroundSampling], start: SamplingStart) -> Sample:
    """``run`` with the patches around it, the first one outermost."""
    for patch in reversed(patches):
        run = partial(_wrapped, patch, start, run)
    return run


def _wrapped(patch: AroundSampling, start: SamplingStart, run: Sample, x: Tensor) -> Tensor:
    has_run = False

    def once(x: Tensor) -> Tensor:
        nonlocal has_run
        if has_run:
            raise ValueError("the sampling was to be run a second time")
        has_run = True
        return run(x)

    return patch.wrap(x, start, once)
