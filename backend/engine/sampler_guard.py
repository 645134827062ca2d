"""Around samplers and schedules of extensions: a failure, or a result of another kind, names who brought them."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from backend.diffusion.prediction import Prediction
from backend.diffusion.samplers.spec import SamplerSpec
from backend.diffusion.schedules import ScheduleSpec
from backend.errors import UserError
from backend.plugins import ExtensionFailed

log = logging.getLogger(__name__)


def named_sampler(spec: SamplerSpec, owner: str) -> SamplerSpec:
    """The sampler, whose own failures are ``ExtensionFailed``; what fails in ``denoise`` or ``on_step`` is not its."""
    what = f"sampler {spec.label}"

    def run(denoise: Callable[..., Any], x: Tensor, sigmas: Tensor, *, on_step: Callable[..., Any], **told: Any) -> Any:
        others = _Noted()
        ask = others.of(denoise)

        def asked(at: Tensor, sigma: Tensor) -> Tensor:
            if not isinstance(at, Tensor) or at.shape != x.shape:
                raise _wrong(owner, what, at, f"a latent of shape {tuple(x.shape)}")
            return ask(at, sigma)

        try:
            made = spec.run(asked, x, sigmas, on_step=others.of(on_step), **told)
        except BaseException as error:
            if others.failed_with(error):
                raise
            raise _failed(owner, what, error) from error
        if not isinstance(made, Tensor) or made.shape != x.shape:
            raise _wrong(owner, what, made, f"a latent of shape {tuple(x.shape)}")
        return made

    return replace(spec, run=run)


def named_schedule(spec: ScheduleSpec, owner: str) -> ScheduleSpec:
    """The schedule, whose failures are ``ExtensionFailed``."""
    what = f"schedule {spec.label}"

    def make(prediction: Prediction, steps: int) -> Any:
        try:
            sigmas = spec.make(prediction, steps)
        except BaseException as error:
            if _is_told_already(error):
                raise
            raise _failed(owner, what, error) from error
        if not isinstance(sigmas, Tensor) or sigmas.shape != (steps + 1,):
            raise _wrong(owner, what, sigmas, f"{steps + 1} levels")
        return sigmas

    return replace(spec, make=make)


class _Noted:
    """Functions of Easel's that a sampler calls, and what they raised."""

    def __init__(self) -> None:
        self._raised: BaseException | None = None

    def of(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            try:
                return function(*arguments, **named)
            except BaseException as error:
                self._raised = error
                raise

        return call

    def failed_with(self, error: BaseException) -> bool:
        return error is self._raised or _is_told_already(error)


def _is_told_already(error: BaseException) -> bool:
    """What says itself whose it is, and a lack of memory, which is nobody's; of a CPU that is a plain RuntimeError."""
    is_memory = isinstance(error, MemoryError | torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)
    return is_memory or isinstance(error, UserError)


def _failed(owner: str, what: str, error: BaseException) -> ExtensionFailed:
    log.error("the %s of %s failed\n%s", what, owner, traceback.format_exc())
    words = f"failed: {type(error).__name__}: {str(error)[:200]}"
    return ExtensionFailed(
        f"The extension {owner}'s {what} {words}.", "Take another for this picture; the log has the details.",
        field=what.split(maxsplit=1)[0],
    )  # fmt: skip


def _wrong(owner: str, what: str, given: Any, wanted: str) -> ExtensionFailed:
    shown = f"a tensor of shape {tuple(given.shape)}" if isinstance(given, Tensor) else f"a {type(given).__name__}"
    return ExtensionFailed(
        f"The extension {owner}'s {what} gave {shown} where {wanted} is needed.", "Take another for this picture.",
        field=what.split(maxsplit=1)[0],
    )  # fmt: skip
