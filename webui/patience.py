"""How long the dispatcher waits for what."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long to wait for what, in seconds."""

    silence: float = 300.0  # of a running job, before it counts as hanging ...
    silence_steps: float = 20.0  # ... or this many times its slowest step, if that is longer
    start: float = 300.0  # until an engine process is ready
    first_pause: float = 0.5  # before an engine is started again; doubled with each quick death
    longest_pause: float = 60.0
    stop: float = 5.0  # for an engine to end by itself when the server stops
    store: float = 5.0  # before a job store that failed (full disk) is tried again
    hold: float = 3.0  # before a queue that an extension holds is looked at again
