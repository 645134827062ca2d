"""Around what patches call: a failure, or a result of another type, names the extension and the patch."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any, TypeVar

from torch import Tensor

from backend.diffusion import patching
from backend.diffusion.conditioning import Conditioning
from backend.diffusion.patching import QKV, BlockState, Patch
from backend.diffusion.residuals import UNetResiduals
from backend.diffusion.sampling_patch import AroundSampling
from backend.errors import UserError, is_out_of_memory
from backend.plugins import ExtensionFailed

log = logging.getLogger(__name__)
P = TypeVar("P", bound=Patch)
_BASE = frozenset(field.name for field in fields(Patch))

#: What the function of each kind of patch must give back.
_GIVES: Mapping[type[Patch], tuple[type, ...]] = {
    patching.AttentionInput: (QKV,),
    patching.AttentionBias: (Tensor, type(None)),
    patching.AttentionReplace: (Tensor,),
    patching.AttentionOutput: (Tensor,),
    patching.BlockInput: (BlockState,),
    patching.BlockReplace: (BlockState,),
    patching.BlockOutput: (BlockState,),
    patching.Residuals: (UNetResiduals, list, tuple, type(None)),
    patching.ModelCall: (Tensor,),
    patching.BeforeGuidance: (Mapping,),
    patching.CombineGuidance: (Tensor,),
    patching.AfterGuidance: (Tensor,),
    patching.ChangeConditioning: (Conditioning,),
    patching.StepMask: (Tensor,),
    AroundSampling: (Tensor,),
    patching.VaeDecode: (Tensor,),
    patching.VaeEncode: (Tensor,),
}
#: Kinds whose result must have the shape of what they change.
_SHAPED = (patching.AttentionOutput, patching.AfterGuidance, AroundSampling)


def guarded(patch: P) -> P:
    """The patch, whose function raises ``ExtensionFailed`` for whatever goes wrong in it."""
    functions = {
        field.name: _named(patch, value)
        for field in fields(patch)
        if field.name not in _BASE and callable(value := getattr(patch, field.name))
    }
    return replace(patch, **functions)


def _named(patch: Patch, function: Callable[..., Any]) -> Callable[..., Any]:
    kinds, is_shaped = _GIVES.get(type(patch), (object,)), isinstance(patch, _SHAPED)

    def call(*arguments: Any) -> Any:
        try:
            given = function(*arguments)
        except BaseException as error:
            if isinstance(error, UserError) or is_out_of_memory(error):
                raise
            log.error("%s failed\n%s", patch.name, traceback.format_exc())
            raise _failed(patch, f"failed: {type(error).__name__}: {str(error)[:200]}") from error
        if not isinstance(given, kinds):
            raise _failed(patch, f"gave a {type(given).__name__} where a {kinds[0].__name__} is needed")
        if isinstance(given, Tensor) and given.is_complex():
            raise _failed(patch, "gave complex numbers")
        if is_shaped and given.shape != arguments[0].shape:
            raise _failed(patch, f"gave the shape {tuple(given.shape)} for {tuple(arguments[0].shape)}")
        return given

    return call


def _failed(patch: Patch, words: str) -> ExtensionFailed:
    return ExtensionFailed(
        f"The extension {patch.owner} failed while sampling: its {patch.label or type(patch).__name__} {words}.",
        "Switch it off for this picture, or look for a newer version; the log has the details.",
        field="extensions",
    )
