"""The most memory that this process held while something ran: its own pages, and those that only mirror files."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from types import TracebackType

import psutil
import torch

PAUSE = 0.02  # seconds between two looks


@dataclass(frozen=True)
class Memory:
    """Bytes.

    Attributes:
        before: anonymous memory when the watch began: interpreter and libraries.
        anonymous_peak: the most anonymous memory, ``before`` included; what cannot be had back without swapping.
        mapped_peak: the most pages of mapped files (weights in the file's dtype, libraries), which the system can
            drop and read again; 0 where it does not tell them apart.
        device_peak: the most that torch had allocated on a GPU; None on a CPU.
    """

    before: int
    anonymous_peak: int
    mapped_peak: int
    device_peak: int | None


class PeakMemory:
    """A context manager that watches from a thread of its own; ``figures`` afterwards."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._process = psutil.Process()
        self._stop = threading.Event()
        self._before, _ = self._now()
        self._anonymous, self._mapped = self._now()
        self._thread = threading.Thread(target=self._watch, name="memory", daemon=True)

    def __enter__(self) -> PeakMemory:
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def figures(self) -> Memory:
        """What the watch saw."""
        on_gpu = self._device.type == "cuda"
        device = torch.cuda.max_memory_allocated(self._device) if on_gpu else None
        return Memory(self._before, self._anonymous, self._mapped, device)

    def _watch(self) -> None:
        while True:
            anonymous, mapped = self._now()
            self._anonymous, self._mapped = max(self._anonymous, anonymous), max(self._mapped, mapped)
            if self._stop.wait(PAUSE):
                return

    def _now(self) -> tuple[int, int]:
        """Anonymous and mapped bytes; only Linux tells them apart."""
        info = self._process.memory_info()
        mapped = int(getattr(info, "shared", 0))
        return info.rss - mapped, mapped
