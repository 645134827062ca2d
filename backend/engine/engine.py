"""The engine: a plain object that turns a request into pictures, in a script, a test or behind the page.

All mutable state of the backend hangs on it: resident models, measured speeds, the catalog's cache.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from random import SystemRandom
from typing import Any

import torch

from backend.diffusion.branches import Batching
from backend.diffusion.registry import SCHEMA
from backend.engine.adapters import AdapterShelf
from backend.engine.device import choose_device, dtype_name
from backend.engine.extensions import Extensions, OnCall
from backend.engine.models import ModelManager
from backend.engine.networks import OwnNetworks
from backend.engine.parts import PartKey
from backend.engine.plan import Speeds
from backend.engine.preview import Previews
from backend.engine.prompting import PromptCache
from backend.engine.result import VERSION, GenerationResult, Picture
from backend.engine.run import Run
from backend.errors import OutOfMemory, is_out_of_memory
from backend.events import JobEvent, Residents
from backend.formats.configs import CheckpointInfo
from backend.records.catalog import Catalog
from backend.records.images import Inputs
from backend.records.outputs import Outputs
from backend.records.resolve import Resolved, resolve
from backend.request import GenerationRequest
from backend.settings import Settings

BATCHED_PIXELS = 1024 * 1024  # on a CPU, above this the activations of a doubled batch cost more than they save

__all__ = ["VERSION", "Engine", "GenerationResult", "Picture"]


class Engine:
    """Runs requests one at a time.

    Args:
        settings: folders, device and budgets.
        on_residents: told after every change of what is in memory.
        on_hook: told of every hook of an extension that is called, see ``Plugins``.
    """

    def __init__(
        self,
        settings: Settings,
        on_residents: Callable[[Residents], None] | None = None,
        on_hook: OnCall | None = None,
    ) -> None:
        self.settings = settings
        self.policy = choose_device(settings.device, settings.dtype, settings.memory_gb, settings.low_memory)
        if settings.threads:
            torch.set_num_threads(settings.threads)
        self._on_residents = on_residents
        self._known_parts: frozenset[PartKey] = frozenset()
        self._telling = threading.Lock()
        self._loaded: deque[PartKey] = deque()  # that no observer was told of yet
        self.manager = ModelManager(self.policy, self._tell_residents)
        self.catalog = Catalog.of(settings)
        self.networks = OwnNetworks(self.manager, self.catalog, settings.models_dir)
        self.extensions = Extensions.load(settings, self.catalog, self.networks, on_hook)
        self.registry: dict[str, Any] = {"schema": SCHEMA, **self.extensions.document()}
        self.inputs = Inputs(settings.inputs_dir)
        self.outputs = Outputs(settings.outputs_dir, quality=settings.jpeg_quality, registry=self.registry)
        self.previews = Previews(self.policy)
        self.speeds = Speeds()
        self.prompts = PromptCache()
        self.adapters = AdapterShelf(self.catalog, tuple(self.extensions.adapter_formats.values()))
        self.rng = SystemRandom()  # draws the seeds that a request leaves open
        self.extensions.started()

    @property
    def dtype(self) -> str:
        """The denoiser's arithmetic, 'bfloat16'."""
        return dtype_name(self.policy.dtype)

    def generate(
        self,
        request: GenerationRequest,
        on_event: Callable[[JobEvent], None] | None = None,
        *,
        cancel: threading.Event | None = None,
        outputs: Outputs | None = None,
        job: str = "",
    ) -> GenerationResult:
        """Make the pictures of a request.

        Args:
            on_event: told what happens, in this thread: Planned, Step, ImageSaved, Note, Done.
            cancel: set from another thread to stop before the next network call.
            outputs: where pictures are saved as they are finished; None: they are only returned.
            job: id that the events and file names carry.
        Raises:
            UserError: any of ``backend.errors``; whatever was saved before stays.
        """
        self._tell_loaded()
        run = Run(self, on_event or (lambda _event: None), cancel or threading.Event(), outputs, job)
        try:
            return run.whole(request)
        except (RuntimeError, MemoryError) as error:
            if is_out_of_memory(error):
                raise self._out_of_memory(run.request or request) from error
            raise

    def resolved(self, request: GenerationRequest) -> tuple[Resolved, CheckpointInfo]:
        """The request with every field filled and checked, and its checkpoint; nothing is loaded.

        Raises:
            NotFound, ModelUnsupported, BadRequest ...: as ``generate`` would.
        """
        info, vae = self.catalog.asked_by(request)
        refiner = self.catalog.refiner(request.refiner) if request.refiner else None
        size = self.inputs.size(request.init_image) if request.init_image else None
        done = resolve(request, info, self.registry, rng=self.rng, init_size=size, vae=vae, refiner=refiner)
        return done, info

    def batching(self, request: GenerationRequest, *, branches: int = 2) -> Batching:
        """Guidance as one batch or a pass for each branch: by setting, else by device and size, never by free memory.

        Args:
            branches: that would go into one call.
        """
        if self.settings.guidance_batching != "auto":
            return self.settings.guidance_batching
        pixels = (request.width or 0) * (request.height or 0) * request.batch_size * branches / 2
        return "two passes" if self.policy.device.type == "cpu" and pixels > BATCHED_PIXELS else "batched"

    def _out_of_memory(self, request: GenerationRequest) -> OutOfMemory:
        self.manager.drop_all()
        size = f"{request.width} x {request.height}, batch size {request.batch_size}"
        return OutOfMemory(
            f"There was not enough memory on {self.policy.device.type} for {size}.",
            "Use a smaller size or batch size, or switch T5 off.",
        )

    def close(self) -> None:
        """Tell the extensions that it ends."""
        self._tell_loaded()
        self.extensions.stopped()

    def _tell_residents(self, is_beside: bool) -> None:
        """Tell of what is in memory; observers in the job thread alone, of what an action has loaded a little later."""
        with self._telling:  # so that the latest is told last
            parts = self.manager.residents
            self._loaded += [key for key in parts if key not in self._known_parts]
            self._known_parts = frozenset(parts)
            if self._on_residents:
                self._on_residents(Residents(parts=tuple(map(str, parts)), bytes=sum(key.bytes for key in parts)))
        if not is_beside:
            self._tell_loaded()

    def _tell_loaded(self) -> None:
        while self._loaded:
            key = self._loaded.popleft()
            self.extensions.tell_loaded(key.name, key.part)
