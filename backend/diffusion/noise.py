"""Random numbers: one CPU generator an image, so that a seed means the same on every device and in every batch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from backend.diffusion.brownian import BrownianPath


class NoiseSource:
    """The noise of a batch; every image has its own stream of numbers, drawn in float32 on the CPU.

    The first draw of an image's generator is its initial noise, the following draws are its step noise, so an image
    is the same alone and in a batch, bit for bit. ``interval`` takes one draw as the seed of a Brownian path instead.

    Args:
        seeds: one an image, 0 .. 2**63 - 1.
        shape: (C, h, w) of one latent.
        device: where the noise is wanted.
        variation_seeds: one an image, or None; their initial noise is mixed in by ``variation_strength`` (0..1).
    """

    def __init__(
        self,
        seeds: Sequence[int],
        shape: tuple[int, int, int],
        *,
        device: torch.device | str = "cpu",
        variation_seeds: Sequence[int] | None = None,
        variation_strength: float = 0.0,
    ) -> None:
        self._shape = shape
        self._device = torch.device(device)
        self._generators = [_generator(seed) for seed in seeds]
        self._paths: list[BrownianPath] | None = None
        noise = self._draw()
        if variation_seeds is not None and variation_strength > 0:
            others = [torch.randn(shape, generator=_generator(seed)) for seed in variation_seeds]
            noise = [slerp(a, b, variation_strength) for a, b in zip(noise, others, strict=True)]
        self.initial: Tensor = torch.stack(noise).to(self._device)  # (B, C, h, w), unit variance

    def step(self) -> Tensor:
        """The next independent unit noise, (B, C, h, w)."""
        return torch.stack(self._draw()).to(self._device)

    def interval(self, start: float, end: float) -> Tensor:
        """Unit noise (B, C, h, w) of a Brownian motion between two half log-SNRs, log(alpha / sigma), start < end.

        Overlapping intervals give correlated noise, and a seed keeps its path whatever the number of steps.
        """
        if self._paths is None:
            self._paths = [
                BrownianPath(int(torch.randint(2**63 - 1, (), generator=generator)), self._shape)
                for generator in self._generators
            ]
        return torch.stack([path.increment(start, end) for path in self._paths]).to(self._device)

    def _draw(self) -> list[Tensor]:
        return [torch.randn(self._shape, generator=generator) for generator in self._generators]


def slerp(first: Tensor, second: Tensor, share: float) -> Tensor:
    """The point at ``share`` (0..1) on the great circle from one noise to another; keeps unit variance.

    One angle for the whole tensor: A1111 takes one a column, which is a slip of its dimensions. Parallel noises,
    whose circle is not defined, are mixed linearly.
    """
    cosine = float(torch.cosine_similarity(first.double().flatten(), second.double().flatten(), dim=0))
    if abs(cosine) > 0.9995:
        return torch.lerp(first, second, share)
    angle = math.acos(cosine)
    weight_first, weight_second = (math.sin(part * angle) / math.sin(angle) for part in (1 - share, share))
    return weight_first * first + weight_second * second


def _generator(seed: int) -> torch.Generator:
    return torch.Generator("cpu").manual_seed(seed)
