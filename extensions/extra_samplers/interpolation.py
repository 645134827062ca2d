"""Integrals of the polynomial through past values, which multistep samplers move by."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

# Gauss's rule with ten points: with kernels like exp it is exact to float64's rounding over any usual step.
_POINTS, _WEIGHTS = (tuple(float(each) for each in part) for part in np.polynomial.legendre.leggauss(10))


def integral(function: Callable[[float], float], start: float, end: float) -> float:
    """Of a smooth function over one step, from ``start`` to ``end``."""
    centre, half = (start + end) / 2, (end - start) / 2
    return half * sum(weight * function(centre + half * point) for point, weight in zip(_POINTS, _WEIGHTS, strict=True))


def polynomial_weights(
    nodes: Sequence[float], start: float, end: float, kernel: Callable[[float], float]
) -> list[float]:
    """How much the value at each node counts in the integral of kernel * polynomial from ``start`` to ``end``."""

    def basis(own: float, at: float) -> float:
        return math.prod((at - other) / (own - other) for other in nodes if other != own)

    return [integral(lambda at, own=own: kernel(at) * basis(own, at), start, end) for own in nodes]
