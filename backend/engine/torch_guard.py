"""torch's global state around calls of extensions: put back whatever happens, and a change of it has a name.

Grad mode and the number of threads belong to a thread. Default dtype, random state and deterministic mode are one for
the whole process, so that a change of them while two threads were at work (a job, and an action of a panel) is put back
and logged, and neither is blamed for what may have been the other's.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from backend.plugins import ExtensionFailed

log = logging.getLogger(__name__)
SHARED = frozenset({"default dtype", "random state", "deterministic mode"})  # by all threads of the process


@dataclass(eq=False)
class _Stretch:
    """A time in which a thread runs code that may change the state."""

    thread: int
    overlapped: bool = False  # another thread was at work in it, too


class TorchGuard:
    """Called with owner and hook it is the context of one call; ``occupied`` is that of a whole job."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: set[_Stretch] = set()

    @contextmanager
    def __call__(self, owner: str, hook: str) -> Iterator[None]:
        """Put torch's global state back after a hook; a change of it is the extension's fault.

        Raises:
            ExtensionFailed: naming what was changed.
        """
        before = _torch_state()
        changed: list[str] = []
        with self.occupied() as stretch:
            try:
                yield
            finally:
                after = _torch_state()
                changed = [name for name, value in before.items() if not _same(value, after[name])]
                _restore({name: before[name] for name in changed})
        if stretch.overlapped and (doubtful := SHARED.intersection(changed)):
            words = " and ".join(sorted(doubtful))
            log.warning("torch's %s changed during %s of %s, beside other work; put back", words, hook, owner)
            changed = [name for name in changed if name not in SHARED]
        if changed:
            raise ExtensionFailed(
                f"The extension {owner} changed torch's {' and '.join(changed)} in {hook}; that was put back.",
                "It must leave global state as it was.",
                field="extensions",
            )

    @contextmanager
    def occupied(self) -> Iterator[_Stretch]:
        """This thread is at work: what happens to the shared state meanwhile may be its doing."""
        own = _Stretch(threading.get_ident())
        with self._lock:
            for other in self._open:
                if other.thread != own.thread:
                    own.overlapped = other.overlapped = True
            self._open.add(own)
        try:
            yield own
        finally:
            with self._lock:
                self._open.remove(own)


def _torch_state() -> dict[str, Any]:
    return {
        "grad mode": torch.is_grad_enabled(),
        "number of threads": torch.get_num_threads(),
        "default dtype": torch.get_default_dtype(),
        "random state": torch.random.get_rng_state(),
        "deterministic mode": torch.are_deterministic_algorithms_enabled(),
    }


_PUT_BACK = {
    "grad mode": torch.set_grad_enabled,
    "number of threads": torch.set_num_threads,
    "default dtype": torch.set_default_dtype,
    "random state": torch.random.set_rng_state,
    "deterministic mode": torch.use_deterministic_algorithms,
}


def _same(one: Any, other: Any) -> bool:
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def _restore(state: Mapping[str, Any]) -> None:
    for name, value in state.items():
        _PUT_BACK[name](value)
