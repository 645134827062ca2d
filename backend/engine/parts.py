"""A part of a model in memory: its identity, what is kept of it, and how its memory is given back."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import nn

from backend.adapters.apply import PatchedWeights
from backend.formats.configs import Part

PART_NAMES: Mapping[str, str] = {
    "network": "network",
    "denoiser": "denoiser",
    "vae": "VAE",
    "clip_l": "CLIP-L",
    "clip_g": "CLIP-G",
    "clip_h": "CLIP-H",
    "t5": "T5",
}


@dataclass(frozen=True)
class PartKey:
    """One part as its files are now; a file that was replaced gives another key."""

    files: tuple[tuple[Path, int, int], ...]  # path, size, mtime in ns
    prefix: str
    part: Part | Literal["network"]  # "network": one that guides, or an extension's own
    name: str = field(compare=False)
    bytes: int = field(compare=False)  # once loaded, each number in the format in which it is held

    def replaced_by(self, other: PartKey) -> bool:
        """Whether ``other`` is the same part of the same files, which have changed since."""
        same = [path for path, *_ in self.files] == [path for path, *_ in other.files]
        return same and (self.prefix, self.part) == (other.prefix, other.part)

    def __str__(self) -> str:
        return f"{self.name}: {PART_NAMES[self.part]} ({self.bytes / 2**20:.0f} MiB)"


@dataclass
class Resident:
    """A loaded part, when it was last asked for, and the adapters in its weights, if it ever had any.

    ``is_own``: an extension made it, and may still refer to it when it leaves.
    """

    key: PartKey
    module: nn.Module
    used: float
    patched: PatchedWeights | None = None
    is_own: bool = False

    @property
    def bytes(self) -> int:
        """What it takes, copies of weights included that it keeps for adapters that come and go."""
        return self.key.bytes + (self.patched.kept_bytes if self.patched else 0)


def empty(network: nn.Module) -> None:
    """Take a network's numbers away: an extension that kept it has nothing in memory by that."""
    for tensor in (*nn.Module.parameters(network), *nn.Module.buffers(network)):
        with suppress(RuntimeError, TypeError):  # a kind of tensor that does not let go: it is its extension's
            tensor.data = tensor.data.new_empty(0)


def trim_heap() -> None:
    """Hand freed arenas back to the system: glibc keeps up to 1.7 GiB of them otherwise (SPEED.md section 3)."""
    trim: Any = _malloc_trim()
    if trim is not None:
        trim(0)


def _malloc_trim() -> Any:
    import ctypes

    try:
        return ctypes.CDLL("libc.so.6").malloc_trim
    except (OSError, AttributeError):  # not glibc
        return None
