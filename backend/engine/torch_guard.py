"""torch's global state around calls of extensions: put back whatever happens, and a change of it has a name.

Grad mode, the number of threads, autocast and the default device belong to a thread. The others are one for the whole
process, so that a change of them while two threads were at work (a job, and an action of a panel) is put back
and logged, and neither is blamed for what may have been the other's.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from backend.errors import UserError
from backend.plugins import ExtensionFailed

log = logging.getLogger(__name__)
SHARED = frozenset(  # by all threads of the process
    {"default dtype", "random state", "deterministic mode", "precision of products", "switches of oneDNN and cuDNN"}
)


class StateChanged(ExtensionFailed):
    """An extension has changed torch's global state, which was put back."""


@dataclass(eq=False)
class _Stretch:
    """A time in which a thread runs code that may change the state."""

    thread: int
    overlapped: bool = False  # another thread was at work in it, too


class TorchGuard:
    """Called with owner and hook it is the context of one call; ``sampling`` is that of a job's pictures, ``occupied``
    that of a whole job."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: set[_Stretch] = set()

    @contextmanager
    def __call__(self, owner: str, hook: str) -> Iterator[None]:
        """Put torch's global state back after a hook; a change of it is the extension's fault.

        Raises:
            StateChanged: naming what was changed.
        """
        before = torch_state()
        changed: list[str] = []
        with self.occupied() as stretch:
            try:
                yield
            finally:
                changed = _put_back(before)
        if changed := _certain(changed, stretch, f"{hook} of {owner}"):
            raise _blamed(f"The extension {owner}", changed, f"in {hook}")

    @contextmanager
    def sampling(self, at_work: Callable[[], Sequence[str]]) -> Iterator[Callable[[], None]]:
        """Around what a job's patches, sampler and schedule do between the hooks; gives what is called before saving.

        Args:
            at_work: the extensions of which something was called; asked only when there is something to say.
        Raises:
            StateChanged: from what is given, or in place of a fault of Easel's own that such a change has led to.
        """
        before = torch_state()
        with self.occupied() as stretch:

            def check() -> None:
                changed = _certain(_put_back(before), stretch, "a job")
                if changed and (owners := at_work()):
                    who = (
                        f"The extension {owners[0]}"
                        if len(owners) == 1
                        else f"One of the extensions {', '.join(owners)}"
                    )
                    raise _blamed(who, changed, "while sampling")

            try:
                yield check
            except UserError:
                raise
            except Exception:
                check()
                raise
            finally:
                _put_back(before)

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


def _precision() -> tuple[str | None, ...]:
    """In which number format float32 products are really computed, of all libraries."""
    try:
        legacy = torch.get_float32_matmul_precision()
    except RuntimeError:  # set library by library before
        legacy = None
    return legacy, *(library.fp32_precision for library in _PRODUCTS)


def _put_precision(values: tuple[str | None, ...]) -> None:
    if values[0] is not None:
        torch.set_float32_matmul_precision(values[0])  # sets some of the others, so it comes first
    for library, value in zip(_PRODUCTS, values[1:], strict=True):
        library.fp32_precision = value


def _switches() -> tuple[bool, ...]:
    return tuple(getattr(library, name) for library, name in _SWITCHES)


def _put_switches(values: tuple[bool, ...]) -> None:
    for (library, name), value in zip(_SWITCHES, values, strict=True):
        setattr(library, name, value)


def _put_autocast(values: tuple[bool, ...]) -> None:
    for kind, value in zip(_AUTOCAST, values, strict=True):
        torch.set_autocast_enabled(kind, value)


def _put_device(device: torch.device) -> None:
    torch.set_default_device(None if device.type == "cpu" else device)  # None is torch's own way without a detour


_BACKENDS: Any = torch.backends
_PRODUCTS = (  # the first is what the others follow that say "none"
    _BACKENDS, _BACKENDS.cuda.matmul, _BACKENDS.cudnn.conv, _BACKENDS.cudnn.rnn, _BACKENDS.mkldnn.matmul,
    _BACKENDS.mkldnn.conv,
)  # fmt: skip
_SWITCHES = (
    (_BACKENDS.mkldnn, "enabled"),
    (_BACKENDS.cudnn, "enabled"),
    (_BACKENDS.cudnn, "benchmark"),
    (_BACKENDS.cudnn, "deterministic"),
)
_AUTOCAST = ("cpu", "cuda")

#: What is looked at: how it is read, and how it is put back.
_STATE: Mapping[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "grad mode": (torch.is_grad_enabled, torch.set_grad_enabled),
    "number of threads": (torch.get_num_threads, torch.set_num_threads),
    "default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "default device": (torch.get_default_device, _put_device),
    "random state": (torch.random.get_rng_state, torch.random.set_rng_state),
    "deterministic mode": (torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms),
    "autocast": (lambda: tuple(map(torch.is_autocast_enabled, _AUTOCAST)), _put_autocast),
    "precision of products": (_precision, _put_precision),
    "switches of oneDNN and cuDNN": (_switches, _put_switches),
}


def torch_state() -> dict[str, Any]:
    """Everything that is looked at, by name, as it is now."""
    return {name: read() for name, (read, _) in _STATE.items()}


def _put_back(before: Mapping[str, Any]) -> list[str]:
    """Restore what is otherwise than before; its names."""
    after = torch_state()
    changed = [name for name, value in before.items() if not same_state(value, after[name])]
    for name in changed:
        _STATE[name][1](before[name])
    return changed


def _certain(changed: Sequence[str], stretch: _Stretch, where: str) -> list[str]:
    """Those of the changes that can only be this thread's."""
    if stretch.overlapped and (doubtful := SHARED.intersection(changed)):
        log.warning("torch's %s changed during %s, beside other work; put back", " and ".join(sorted(doubtful)), where)
        return [name for name in changed if name not in SHARED]
    return list(changed)


def _blamed(who: str, changed: Sequence[str], where: str) -> StateChanged:
    return StateChanged(
        f"{who} changed torch's {' and '.join(changed)} {where}; that was put back.",
        "It must leave global state as it was.",
        field="extensions",
    )


def same_state(one: Any, other: Any) -> bool:
    """Whether two readings of one thing are the same."""
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other
