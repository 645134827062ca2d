"""The model manager: which parts of which checkpoints are in memory, and which leave when room is needed.

Text encoders, denoiser and VAE are separate residents. There is one tier only: a part that leaves is dropped, since
its weights stay in the memory-mapped file, which the system's page cache keeps warm for as long as it can.
"""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import nn

from backend.adapters.apply import AdapterUse, PatchedWeights
from backend.checkpoints.load import load_part, load_vae_file
from backend.diffusion.weight_sets import WeightSets
from backend.engine.device import DevicePolicy, dtype_name
from backend.formats.configs import CheckpointInfo, Part, PartSource, VaeInfo
from backend.nn.mmdit import MMDiT
from backend.nn.unet import UNet
from backend.nn.vae import VAE
from backend.request import GenerationRequest

log = logging.getLogger(__name__)

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
    """A loaded part, when it was last asked for, and the adapters in its weights, if it ever had any."""

    key: PartKey
    module: nn.Module
    used: float
    patched: PatchedWeights | None = None


class ModelManager:
    """Keeps recently used parts warm within a budget; T5 leaves first, then the longest unused."""

    def __init__(self, policy: DevicePolicy, on_change: Callable[[Sequence[PartKey]], None] | None = None) -> None:
        self.policy = policy
        self._residents: dict[PartKey, Resident] = {}
        self._on_change = on_change or (lambda _parts: None)

    @property
    def residents(self) -> tuple[PartKey, ...]:
        """What is in memory now, longest unused first."""
        return tuple(r.key for r in sorted(self._residents.values(), key=lambda r: r.used))

    @property
    def resident_bytes(self) -> int:
        """Memory that the residents' weights take."""
        return sum(key.bytes for key in self._residents)

    def key(self, info: CheckpointInfo | VaeInfo, part: Part) -> PartKey:
        """The identity of a part: its files as they are now."""
        sources = _sources(info)
        source = sources[part]
        stats = [path.stat() for path in source.paths]
        files = tuple((p, s.st_size, s.st_mtime_ns) for p, s in zip(source.paths, stats, strict=True))
        name = info.companions.get(part, info.name) if isinstance(info, CheckpointInfo) else info.name
        return PartKey(files, source.prefix, part, name, self.policy.part_bytes(part, sources))

    def leaving(self, needed: Iterable[PartKey]) -> tuple[PartKey, ...]:
        """Which residents must go so that all of ``needed`` fits beside the rest; asks only, changes nothing."""
        wanted = set(needed)
        room = self.policy.budget_bytes - sum(key.bytes for key in wanted)
        leaves: list[PartKey] = []
        others = [r for r in self._residents.values() if r.key not in wanted]
        kept = sum(r.key.bytes for r in others)
        for resident in sorted(others, key=lambda r: (r.key.part != "t5", r.used)):
            if kept <= room:
                break
            leaves.append(resident.key)
            kept -= resident.key.bytes
        return tuple(leaves)

    def switched_off(self, info: CheckpointInfo, request: GenerationRequest) -> tuple[PartKey, ...]:
        """Residents that the request says to do without: every T5, where its checkpoint has one and it is off."""
        if info.t5 is None or request.use_t5:
            return ()
        return tuple(key for key in self.residents if key.part == "t5")

    def get(self, info: CheckpointInfo | VaeInfo, part: Part, adapters: Sequence[AdapterUse] = ()) -> nn.Module:
        """The module on the device, for the policy's arithmetic, from memory or its file; others leave if they must.

        Args:
            adapters: exactly these are in its weights until it is asked for with others; to change them, nothing is
                loaded again. Those with a scope come and go by ``weight_sets``.
        Raises:
            BadRequest: with these adapters a weight becomes infinite.
            ModelCorrupt, NotFound: what ``load_part`` says; residents that had not to leave are untouched.
        """
        key = self.key(info, part)
        resident = self._residents.get(key)
        if resident is None:
            self.drop(self.leaving([key]))
            self.drop([k for k in self._residents if k.replaced_by(key)])
            started = time.perf_counter()
            arithmetic = self.policy.arithmetic(part, _sources(info))
            module = load_vae_file(info, arithmetic) if isinstance(info, VaeInfo) else load_part(info, part, arithmetic)
            module = module.to(device=self.policy.device)
            if part in ("denoiser", "vae") and self.policy.device.type == "cuda":
                module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it
            log.info(
                "loaded %s in %.2f s as %s", key, time.perf_counter() - started, dtype_name(self.policy.dtype_of(part))
            )
            resident = self._residents[key] = Resident(key, module, time.monotonic())
            self._on_change(self.residents)
        resident.used = time.monotonic()
        if adapters and resident.patched is None:
            resident.patched = PatchedWeights(part, resident.module)
        if resident.patched is not None:
            others = sum(other.key.bytes for other in self._residents.values())
            resident.patched.room = max(0, self.policy.budget_bytes - others)
            resident.patched.use(adapters)
        return resident.module

    @staticmethod
    def network_key(path: Path, kind: str, over: PartKey | None = None) -> PartKey:
        """The identity of a network of a file beside a checkpoint's.

        Args:
            kind: how the file is read.
            over: the part whose weights the file changes; then the network is of those files, too, as they are now.
        """
        stat = path.stat()
        files = ((path, stat.st_size, stat.st_mtime_ns), *(over.files if over else ()))
        kind = f"{kind} over {over.prefix}{over.part}" if over else kind
        return PartKey(files, kind, "network", path.name, stat.st_size)

    def network(
        self,
        path: Path,
        kind: str,
        load: Callable[[], nn.Module],
        beside: Sequence[PartKey] = (),
        over: PartKey | None = None,
    ) -> nn.Module:
        """A network beside the checkpoint's own, from memory or as ``load`` makes it; others leave if they must.

        Args:
            kind: who made it of the file, since one file may be read in several ways.
            beside: parts that it works with, which stay.
            over: see ``network_key``.
        """
        key = self.network_key(path, kind, over)
        resident = self._residents.get(key)
        if resident is None:
            self.drop(self.leaving([key, *beside]))
            self.drop([k for k in self._residents if k.replaced_by(key)])
            with torch.inference_mode(False):
                module = load().to(device=self.policy.device)
            key = replace(key, bytes=sum(t.nbytes for t in (*module.parameters(), *module.buffers())))
            log.info("loaded %s", key)
            resident = self._residents[key] = Resident(key, module, time.monotonic())
            self._on_change(self.residents)
        resident.used = time.monotonic()
        return resident.module

    def denoiser(self, info: CheckpointInfo, adapters: Sequence[AdapterUse] = ()) -> UNet | MMDiT:
        """The denoiser of a checkpoint, as ``get``."""
        return cast("UNet | MMDiT", self.get(info, "denoiser", adapters))

    def weight_sets(self, info: CheckpointInfo, adapters: Sequence[AdapterUse]) -> WeightSets | None:
        """Those of a denoiser's adapters that act in some steps, branches or regions only, while it stays in memory."""
        scopes = [use.scope for use in adapters if use.scope is not None]
        if not scopes:
            return None
        self.get(info, "denoiser", adapters)
        patched = self._residents[self.key(info, "denoiser")].patched
        return None if patched is None else WeightSets(scopes, patched.switch)

    def vae(self, info: CheckpointInfo | VaeInfo) -> VAE:
        """A VAE, as ``get``."""
        return cast("VAE", self.get(info, "vae"))

    def drop(self, keys: Iterable[PartKey]) -> None:
        """Let parts go and give their memory back."""
        gone = [key for key in keys if self._residents.pop(key, None)]
        if not gone:
            return
        log.info("dropped %s", ", ".join(map(str, gone)))
        gc.collect()
        if self.policy.device.type == "cuda":
            torch.cuda.empty_cache()
        _trim_heap()
        self._on_change(self.residents)

    def drop_all(self) -> None:
        """Let everything go."""
        self.drop(tuple(self._residents))


def _sources(info: CheckpointInfo | VaeInfo) -> Mapping[Part, PartSource]:
    return {"vae": info.source} if isinstance(info, VaeInfo) else info.sources


def _trim_heap() -> None:
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
