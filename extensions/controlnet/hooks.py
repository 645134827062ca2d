"""What this extension registers."""

from __future__ import annotations

from collections.abc import Sequence

from backend.api import PreprocessorSpec, hookimpl
from extensions.controlnet.preprocessors.table import PREPROCESSORS


@hookimpl
def register_preprocessors() -> Sequence[PreprocessorSpec]:
    """Those of the README's table."""
    return PREPROCESSORS
