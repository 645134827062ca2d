"""The model manager: which parts of which checkpoints are in memory, and which leave when room is needed.

Text encoders, denoiser and VAE are separate residents. There is one tier only: a part that leaves is dropped, since
its weights stay in the memory-mapped file, which the system's page cache keeps warm for as long as it can.

Jobs and actions of panels ask for parts from threads of their own. One lock guards the table of residents and who has
which of them in hand (``uses.Use``). It is held for looking and for letting go, never while a part is loaded: what an
extension builds there may hang. What is in use never leaves, whoever needs the room.
"""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from torch import nn

from backend.adapters.apply import AdapterUse, PatchedWeights
from backend.checkpoints.load import load_part, load_vae_file
from backend.diffusion.weight_sets import WeightSets
from backend.engine.device import DevicePolicy, dtype_name
from backend.engine.parts import PartKey, Resident, empty, trim_heap
from backend.engine.uses import LOOKS_EVERY, Use, no_room
from backend.formats.configs import CheckpointInfo, Part, PartSource, VaeInfo
from backend.nn.mmdit import MMDiT
from backend.nn.unet import UNet
from backend.nn.vae import VAE
from backend.request import GenerationRequest

log = logging.getLogger(__name__)


class ModelManager:
    """Keeps recently used parts warm within a budget; T5 leaves first, then the longest unused.

    Args:
        on_change: told after every change of what is in memory; True: by work beside jobs, in its thread.
    """

    def __init__(self, policy: DevicePolicy, on_change: Callable[[bool], None] | None = None) -> None:
        self.policy = policy
        self._residents: dict[PartKey, Resident] = {}
        self._uses: list[Use] = []
        self._loading: dict[PartKey, Use] = {}  # networks that are being made, by whom
        self._changed = threading.Condition(threading.RLock())
        self._on_change = on_change or (lambda _is_beside: None)

    @contextmanager
    def using(self, use: Use) -> Iterator[Use]:
        """A piece of work: what it asks for with this ``Use`` stays until the end of the block."""
        with self._changed:
            self._uses.append(use)
        try:
            yield use
        finally:
            self.end(use)

    def end(self, use: Use, *, by_force: bool = False) -> None:
        """A piece of work is over: its parts may leave; ``by_force`` its networks do so now, though it still runs."""
        with self._changed:
            if by_force and not use.is_over:
                others = self._in_use(but=use)
                self._let_go(key for key in use.keys if key.part == "network" and key not in others)
            use.is_over = True
            use.keys.clear()
            self._uses = [each for each in self._uses if each is not use]
            self._loading = {key: by for key, by in self._loading.items() if by is not use}
            self._changed.notify_all()
        if by_force:
            self._on_change(bool(use.beside))

    def release(self, use: Use) -> None:
        """What a piece of work has in hand may leave; it goes on."""
        with self._changed:
            use.keys.clear()
            self._changed.notify_all()

    @property
    def residents(self) -> tuple[PartKey, ...]:
        """What is in memory now, longest unused first."""
        with self._changed:
            return tuple(r.key for r in sorted(self._residents.values(), key=lambda r: r.used))

    @property
    def resident_bytes(self) -> int:
        """Memory that the residents' weights take."""
        with self._changed:
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
        """Which residents must go so that all of ``needed`` fits beside what is in use; asks only, changes nothing."""
        with self._changed:
            wanted = self._in_use() | set(needed)
            room = self.policy.budget_bytes - self._bytes_of(wanted)
            leaves: list[PartKey] = []
            others = [r for r in self._residents.values() if r.key not in wanted]
            kept = self._bytes_of(r.key for r in others)
            for resident in sorted(others, key=lambda r: (r.key.part != "t5", r.used)):
                if kept <= room:
                    break
                leaves.append(resident.key)
                kept -= resident.bytes
            return tuple(leaves)

    def switched_off(self, info: CheckpointInfo, request: GenerationRequest) -> tuple[PartKey, ...]:
        """Residents that the request says to do without: every T5, where its checkpoint has one and it is off."""
        if info.t5 is None or request.use_t5:
            return ()
        return tuple(key for key in self.residents if key.part == "t5")

    def get(
        self,
        info: CheckpointInfo | VaeInfo,
        part: Part,
        adapters: Sequence[AdapterUse] = (),
        use: Use | None = None,
    ) -> nn.Module:
        """The module on the device, for the policy's arithmetic, from memory or its file; others leave if they must.

        Args:
            adapters: exactly these are in its weights until it is asked for with others; to change them, nothing is
                loaded again. Those with a scope come and go by ``weight_sets``.
            use: of the job, the only one that asks for parts of checkpoints; None: it may leave at once.
        Raises:
            BadRequest: with these adapters a weight becomes infinite.
            ModelCorrupt, NotFound: what ``load_part`` says; residents that had not to leave are untouched.
        """
        key = self.key(info, part)
        with self._taking(key, use) as resident:
            if resident is None:
                started = time.perf_counter()
                module = self._loaded(info, part)
                how = dtype_name(self.policy.dtype_of(part))
                log.info("loaded %s in %.2f s as %s", key, time.perf_counter() - started, how)
                resident = self._keep(Resident(key, module, time.monotonic()), by=use)
            if adapters and resident.patched is None:
                resident.patched = PatchedWeights(part, resident.module)
            if resident.patched is not None:
                resident.patched.room = max(0, self.policy.budget_bytes - self.resident_bytes)
                resident.patched.use(adapters)
        return resident.module

    def _loaded(self, info: CheckpointInfo | VaeInfo, part: Part) -> nn.Module:
        arithmetic = self.policy.arithmetic(part, _sources(info))
        module = load_vae_file(info, arithmetic) if isinstance(info, VaeInfo) else load_part(info, part, arithmetic)
        module = module.to(device=self.policy.device)
        if part in ("denoiser", "vae") and self.policy.device.type == "cuda":
            module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it
        return module

    def present(self, info: CheckpointInfo | VaeInfo, part: Part) -> nn.Module | None:
        """The module as it is at this moment, whatever adapters are in it; None: it is not in memory."""
        with self._changed:
            resident = self._residents.get(self.key(info, part))
            return None if resident is None else resident.module

    @staticmethod
    def network_key(paths: Sequence[Path], kind: str, size: int | None = None, over: PartKey | None = None) -> PartKey:
        """The identity of a network of files beside a checkpoint's.

        Args:
            kind: how they are read, since one file may be read in several ways.
            size: in memory; None: as in the files.
            over: the part whose weights they change; then the network is of those files, too, as they are now.
        """
        stats = [path.stat() for path in paths]
        files = tuple((path, stat.st_size, stat.st_mtime_ns) for path, stat in zip(paths, stats, strict=True))
        held = sum(stat.st_size for stat in stats) if size is None else size
        name = paths[0].name if len(paths) == 1 else paths[0].parent.name
        if over is not None:
            files, kind = (*files, *over.files), f"{kind} over {over.prefix}{over.part}"
        return PartKey(files, kind, "network", name, held)

    def network(
        self, key: PartKey, load: Callable[[], nn.Module], use: Use | None = None, *, is_own: bool = False
    ) -> nn.Module:
        """A network beside the checkpoint's own, from memory or as ``load`` makes it; others leave if they must.

        Args:
            load: called without the lock; of two that ask for the same network one waits for the other.
            use: whose it is. One beside jobs gets nothing that does not fit beside what is in use; None: it may leave
                at once.
            is_own: an extension has made it: when it leaves it is emptied, whoever still refers to it.
        Raises:
            OutOfMemory: there is no room, or the work is over.
        """
        with self._taking(key, use) as resident:
            if resident is None:
                with torch.inference_mode(False):
                    module = load().to(device=self.policy.device)
                key = replace(key, bytes=sum(t.nbytes for t in (*module.parameters(), *module.buffers())))
                log.info("loaded %s", key)
                resident = self._keep(Resident(key, module, time.monotonic(), is_own=is_own), by=use)
        return resident.module

    @contextmanager
    def _taking(self, key: PartKey, use: Use | None) -> Iterator[Resident | None]:
        """Hold a part for ``use``, with room for it if it has to be loaded, which is the block's to do (None).

        A load that fails is as if it had not been asked for; residents that had not to leave are untouched.
        """
        own = use if use is not None else Use()
        with self._changed:
            own.refuse_when_over()
            held = key in own.keys
            if use is None:
                self._uses.append(own)
            try:
                resident = self._found(key, own)
            except BaseException:
                self._give_back(key, own, use, is_held=held)
                raise
        try:
            yield resident
        except BaseException:
            self._give_back(key, own, use, is_held=held)
            self._on_change(bool(own.beside))  # what has left for it is gone
            raise
        self._give_back(key, own, use, is_held=True)

    def _found(self, key: PartKey, own: Use) -> Resident | None:
        """The part in memory, for ``own``; None: it is to load it. While it waits for either another may do so."""
        while (resident := self._residents.get(key)) is None:
            if self._loading.get(key, own) is not own:
                self._wait(own)
                continue
            self._make_room(key, own)
            if key not in self._residents and self._loading.get(key, own) is own:
                self._loading[key] = own
                return None
        own.keys.add(key)
        resident.used = time.monotonic()
        return resident

    def _give_back(self, key: PartKey, own: Use, use: Use | None, *, is_held: bool) -> None:
        with self._changed:
            if self._loading.get(key) is own:
                del self._loading[key]
            if not is_held:
                own.keys.discard(key)
            if use is None:
                self._uses = [each for each in self._uses if each is not own]
            self._changed.notify_all()

    def _make_room(self, key: PartKey, use: Use) -> None:
        """Let go of what is in nobody's hands until a part fits; a job waits for work beside it to end.

        A job that needs more than the budget by itself gets it: what it does at once has to be there at once.
        """
        in_use = self._in_use()
        self._let_go(each for each in self._residents if each.replaced_by(key) and each not in in_use)
        is_told = False
        while True:
            use.refuse_when_over()
            use.keys.add(key)
            in_use = self._in_use()
            over = self._bytes_of(in_use) - self.policy.budget_bytes
            if over > 0 and use.beside:
                raise no_room(key, use, self.policy.budget_bytes, self._bytes_of(in_use - {key}))
            if over <= 0 or not any(each.beside and each.keys for each in self._uses):
                break
            if not is_told:
                others = " and ".join(each.beside for each in self._uses if each.beside and each.keys)
                log.info("%s waits for %s", key, others)
                use.tell(f"The job waited for {others}, which had the memory that {key.name} needed.")
            is_told = True
            self._wait(use)
        self._let_go(self.leaving([key]))

    def _wait(self, use: Use) -> None:
        """Until something was given back, or for a moment; raises ``Cancelled``, and what ``refuse_when_over`` does."""
        self._changed.wait(LOOKS_EVERY)
        use.check()
        use.refuse_when_over()

    def _keep(self, resident: Resident, by: Use | None) -> Resident:
        """A loaded part becomes a resident, if there is room for what it has become."""
        with self._changed:
            if by is not None:
                by.keys.discard(resident.key)  # it may have another size now
                self._make_room(resident.key, by)
            self._residents[resident.key] = resident
            self._let_go(self.leaving(()))
        self._on_change(by is not None and bool(by.beside))
        return resident

    def _in_use(self, but: Use | None = None) -> set[PartKey]:
        return {key for use in self._uses if use is not but for key in use.keys}

    def _bytes_of(self, keys: Iterable[PartKey]) -> int:
        """Of residents what they take, of others what they will take."""
        return sum(self._residents.get(key, key).bytes for key in keys)

    def denoiser(
        self, info: CheckpointInfo, adapters: Sequence[AdapterUse] = (), use: Use | None = None
    ) -> UNet | MMDiT:
        """The denoiser of a checkpoint, as ``get``."""
        return cast("UNet | MMDiT", self.get(info, "denoiser", adapters, use))

    def weight_sets(self, info: CheckpointInfo, adapters: Sequence[AdapterUse]) -> WeightSets | None:
        """Those of a denoiser's adapters that act in some steps, branches or regions only, while it stays in memory."""
        scopes = [use.scope for use in adapters if use.scope is not None]
        if not scopes:
            return None
        self.get(info, "denoiser", adapters)
        with self._changed:
            patched = self._residents[self.key(info, "denoiser")].patched
        return None if patched is None else WeightSets(scopes, patched.switch)

    def vae(self, info: CheckpointInfo | VaeInfo, use: Use | None = None) -> VAE:
        """A VAE, as ``get``."""
        return cast("VAE", self.get(info, "vae", use=use))

    def drop(self, keys: Iterable[PartKey]) -> None:
        """Let parts go and give their memory back; those that are in use stay."""
        with self._changed:
            in_use = self._in_use()
            gone = self._let_go(key for key in keys if key not in in_use)
        if gone:
            self._on_change(False)

    def drop_all(self) -> None:
        """Let everything go that is not in use."""
        self.drop(self.residents)

    def _let_go(self, keys: Iterable[PartKey]) -> bool:
        """Take parts out of the table, whoever uses them, and say whether there were any."""
        gone = [found for key in tuple(keys) if (found := self._residents.pop(key, None)) is not None]
        if not gone:
            return False
        log.info("dropped %s", ", ".join(str(resident.key) for resident in gone))
        for resident in gone:
            if resident.is_own:
                empty(resident.module)
        gone.clear()
        gc.collect()
        if self.policy.device.type == "cuda":
            torch.cuda.empty_cache()
        trim_heap()
        return True


def _sources(info: CheckpointInfo | VaeInfo) -> Mapping[Part, PartSource]:
    return {"vae": info.source} if isinstance(info, VaeInfo) else info.sources
