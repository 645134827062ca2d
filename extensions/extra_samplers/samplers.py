"""The list of what this extension brings."""

from __future__ import annotations

from collections.abc import Sequence

from backend.api import SamplerSpec, hookimpl
from extensions.extra_samplers.restart import RestartParameters, sample_restart


@hookimpl
def register_samplers() -> Sequence[SamplerSpec]:
    """Every sampler of the README's table."""
    return [
        SamplerSpec(
            "restart",
            "Restart",
            sample_restart,
            calls_per_step=2,
            converges=False,
            adds_noise=True,
            default_schedule="karras",
            parameters=RestartParameters,
        ),
    ]
