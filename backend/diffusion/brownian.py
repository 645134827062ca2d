"""A Brownian motion that can be asked at any noise level, for the samplers that solve a stochastic equation."""

from __future__ import annotations

import bisect
import hashlib
import math
import struct

import torch
from torch import Tensor

SPAN = 16.0  # half log-SNRs from -16 to 16 hold every sigma from 1e-7 to 8e6
DEPTH = 10  # halvings of the span: cells of 1/32, finer than the steps of 100-step schedules


class BrownianPath:
    """One path W of one image, with time running as the signal-to-noise ratio exp(2 * half log-SNR).

    In that time the noise which the reverse diffusion equation (eta = 1) adds between two levels is exactly an
    increment of W times sigma_end^2 / alpha_end, so the noises of overlapping intervals fit together and a seed keeps
    its path when the number of steps changes. (k-diffusion lets time run as sigma, where neither is exact.)

    The path is a tree: the span of half log-SNRs is halved towards the point asked for, and each midpoint is drawn
    from the Brownian bridge between its known neighbours with noise seeded by (seed, point). Values thus do not
    depend on what was asked before, save for two points within the same cell of width 1/32, where the later one is
    drawn given the earlier. What lies behind the latest interval is forgotten: memory is some ten tensors.

    Source: Li et al. 2020, arXiv:2001.01328, section 4 (virtual Brownian tree), with another time and exact leaves.
    """

    def __init__(self, seed: int, shape: tuple[int, int, int]) -> None:
        self._seed = seed
        self._shape = shape
        self._floor = -SPAN  # points below were forgotten
        self._points: list[float] = [-SPAN, SPAN]
        end = self._noise(SPAN) * math.sqrt(_time(SPAN) - _time(-SPAN))
        self._values: list[Tensor] = [torch.zeros(shape), end]

    def increment(self, start: float, end: float) -> Tensor:
        """W(end) - W(start) scaled to unit variance, (C, h, w).

        Raises:
            ValueError: unless -16 <= start < end <= 16 (and 6e-8 apart).
        """
        if not (start >= -SPAN and end <= SPAN and _on_grid(start) < _on_grid(end)):
            raise ValueError(f"interval {start} to {end} is empty or leaves -{SPAN} to {SPAN}")
        start, end = _on_grid(start), _on_grid(end)
        first, last = self._at(start), self._at(end)
        self._forget_before(start)
        return (last - first) / math.sqrt(_time(end) - _time(start))

    def _at(self, point: float) -> Tensor:
        low, high = -SPAN, SPAN
        for _ in range(DEPTH):
            middle = (low + high) / 2
            if middle >= self._floor or point < self._floor:
                self._draw(middle)
            low, high = (middle, high) if point >= middle else (low, middle)
        return self._draw(point)

    def _draw(self, point: float) -> Tensor:
        """W at ``point``, from the bridge between its known neighbours unless it is known."""
        index = bisect.bisect_left(self._points, point)
        if self._points[index] == point:
            return self._values[index]
        before, now, after = _time(self._points[index - 1]), _time(point), _time(self._points[index])
        low, high = self._values[index - 1], self._values[index]
        share = (now - before) / (after - before)
        spread = math.sqrt((now - before) * (after - now) / (after - before))
        value = low + (high - low) * share + self._noise(point) * spread
        self._points.insert(index, point)
        self._values.insert(index, value)
        return value

    def _forget_before(self, point: float) -> None:
        index = bisect.bisect_left(self._points, point)
        del self._points[1:index], self._values[1:index]
        self._floor = point

    def _noise(self, point: float) -> Tensor:
        digest = hashlib.blake2b(struct.pack("<Qd", self._seed, point), digest_size=8).digest()
        generator = torch.Generator("cpu").manual_seed(int.from_bytes(digest, "little") >> 1)
        return torch.randn(self._shape, generator=generator)


def _on_grid(half_log_snr: float) -> float:
    """Rounded to 2^-24, so that the last bit of a logarithm does not draw other noise."""
    return round(half_log_snr * 2**24) / 2**24


def _time(half_log_snr: float) -> float:
    return math.exp(2 * half_log_snr)
