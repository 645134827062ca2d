"""How far a run with reuse is from the exact one: the same order once more, without reuse, and both compared."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from backend.api import AfterGuidance, GenerationRequest, ModelCall, Outputs, Patch, Runner
from extensions.step_cache.tally import Tally

PANEL = "step_cache"
_EXACT: Mapping[str, Any] = {"interval": 1, "measure": False}


@dataclass
class Capture:
    """The latest guided clean latent of a run, (B, C, h, w), and what the run cost."""

    tally: Tally
    latent: Tensor | None = None

    def patches(self) -> list[Patch]:
        """What looks at the latent and changes nothing."""
        return [AfterGuidance(change=self._look, label="latent to compare")]

    def timed(self) -> list[Patch]:
        """``patches`` for a run without reuse, whose calls nobody else counts."""
        return [ModelCall(wrap=self.tally.around, label="count of operations", in_tiles=True), *self.patches()]

    def _look(self, guided: Tensor, outputs: Outputs) -> Tensor:
        del outputs
        self.latent = guided
        return guided


#: Set while the exact run is made: the job within the job is the only way from ``picture_finished`` to its patches.
_exact_run: ContextVar[Capture | None] = ContextVar("exact run", default=None)


def exact_run() -> Capture | None:
    """What the run at hand is captured in, if it is the exact one of a measurement."""
    return _exact_run.get()


@contextmanager
def _capturing() -> Iterator[Capture]:
    capture = Capture(Tally())
    token = _exact_run.set(capture)
    try:
        yield capture
    finally:
        _exact_run.reset(token)


def compared(request: GenerationRequest, image: Image.Image, reused: Capture, run: Runner) -> str:
    """A sentence on the difference to the exact run, which is made here.

    Args:
        image: the first picture of the first batch.
        reused: the run with reuse.
    """
    exactly = {**request.extensions, PANEL: {"values": dict(_EXACT)}}
    with _capturing() as exact:
        pictures = run(replace(request, batch_count=1, extensions=exactly))
    parts: list[str] = []
    if reused.latent is not None and exact.latent is not None and reused.latent.shape == exact.latent.shape:
        parts.append(f"the latent differs by {relative_error(reused.latent, exact.latent):.1%}")
    if pictures and pictures[0].size == image.size:
        parts.append(f"the picture by {psnr(image, pictures[0]):.1f} dB (PSNR)")
    parts.append(f"sampling took {reused.tally.seconds:.1f} s instead of {exact.tally.seconds:.1f} s")
    return f"Against the exact run {', '.join(parts)}."


def relative_error(latent: Tensor, exact: Tensor) -> float:
    """The length of the difference as a share of the exact latent's."""
    return float((latent.float() - exact.float()).norm() / exact.float().norm())


def psnr(image: Image.Image, exact: Image.Image) -> float:
    """Peak signal-to-noise ratio of two pictures in dB; infinite where they are equal."""
    error = np.mean((np.asarray(image, np.float64) - np.asarray(exact, np.float64)) ** 2)
    return 10 * math.log10(255**2 / error) if error else math.inf
