"""Around samplers and schedules of extensions: a failure, or a result of another kind, names who brought them."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor

from backend.diffusion.prediction import Prediction
from backend.diffusion.samplers.spec import SamplerSpec
from backend.diffusion.schedules import ScheduleSpec
from backend.errors import UserError, is_out_of_memory
from backend.plugins import ExtensionFailed

log = logging.getLogger(__name__)


def named_sampler(spec: SamplerSpec, owner: str) -> SamplerSpec:
    """The sampler, whose own failures are ``ExtensionFailed``; what fails in ``denoise`` or ``on_step`` is not its."""

    def run(denoise: Callable[..., Any], x: Tensor, sigmas: Tensor, *, on_step: Callable[..., Any], **told: Any) -> Any:
        others = _Noted()
        ask = others.of(denoise)

        def asked(at: Tensor, sigma: Tensor) -> Tensor:
            if not isinstance(at, Tensor) or at.shape != x.shape:
                raise _wrong(owner, "sampler", spec.label, at, f"a latent of shape {tuple(x.shape)}")
            return ask(at, sigma)

        try:
            made = spec.run(asked, x, sigmas, on_step=others.of(on_step), **told)
        except BaseException as error:
            if others.failed_with(error):
                raise
            raise _failed(owner, "sampler", spec.label, error) from error
        if not isinstance(made, Tensor) or made.shape != x.shape:
            raise _wrong(owner, "sampler", spec.label, made, f"a latent of shape {tuple(x.shape)}")
        return made

    return replace(spec, run=run)


def named_schedule(spec: ScheduleSpec, owner: str) -> ScheduleSpec:
    """The schedule, whose failures are ``ExtensionFailed``."""

    def make(prediction: Prediction, steps: int) -> Any:
        try:
            sigmas = spec.make(prediction, steps)
        except BaseException as error:
            if _is_told_already(error):
                raise
            raise _failed(owner, "schedule", spec.label, error) from error
        if not isinstance(sigmas, Tensor) or sigmas.shape != (steps + 1,):
            raise _wrong(owner, "schedule", spec.label, sigmas, f"{steps + 1} levels")
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
    """What says itself whose it is, and a lack of memory, which is nobody's."""
    return isinstance(error, UserError) or is_out_of_memory(error)


def _failed(owner: str, kind: str, label: str, error: BaseException) -> ExtensionFailed:
    log.error("the %s %s of %s failed\n%s", kind, label, owner, traceback.format_exc())
    words = f"failed: {type(error).__name__}: {str(error)[:200]}"
    return ExtensionFailed(
        f"The extension {owner}'s {kind} {label} {words}.", "Take another for this picture; the log has the details.",
        field=kind,
    )  # fmt: skip


def _wrong(owner: str, kind: str, label: str, given: Any, wanted: str) -> ExtensionFailed:
    shown = f"a tensor of shape {tuple(given.shape)}" if isinstance(given, Tensor) else f"a {type(given).__name__}"
    return ExtensionFailed(
        f"The extension {owner}'s {kind} {label} gave {shown} where {wanted} is needed.",
        "Take another for this picture.", field=kind,
    )  # fmt: skip
