"""What page and REST work with: orders in, a snapshot out. No HTTP and no gradio here."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import random
import threading
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backend.errors import BadRequest, EngineAway, NotFound
from backend.formats.configs import CheckpointInfo
from backend.records.axes import swept
from backend.records.catalog import Catalog
from backend.records.files import sweep_temps
from backend.records.folders import recover_folders
from backend.records.images import Inputs, StoredInput
from backend.records.job_rows import Job, JobImage
from backend.records.jobs import JobStore
from backend.records.metadata import PictureInfo, read_picture
from backend.records.outputs import Outputs
from backend.records.panels import action_seconds, references
from backend.records.places import folder_named
from backend.records.registry import is_registry, load_registry, save_registry
from backend.records.resolve import Resolved, resolve
from backend.records.tags import check_tags
from backend.request import GenerationRequest, request_to_json
from backend.settings import Settings
from backend.text.embeddings import EmbeddingWords, embedding_words
from webui.dispatcher import Dispatcher, Patience
from webui.engine_start import ENGINE_COMMAND, engine_environment
from webui.extension_list import extension_rows, leave_out, switch_extension
from webui.input_keeper import InputKeeper
from webui.job_facts import image_json
from webui.live import Live
from webui.model_watch import ModelWatch
from webui.told_jobs import SHOWN_JOBS, ToldJobs

if TYPE_CHECKING:
    from webui.extension_host import ExtensionHost
    from webui.handover import EngineHandedOver
    from webui.renewal import Renewal

log = logging.getLogger(__name__)

BY_HAND = "end it with Ctrl+C where it was started, and start it again"
SWEEP_SECONDS = 6 * 3600.0


class Studio:
    """One installation at work: its job store, models and pictures, and the engine beside it.

    Args:
        command: the engine process; a test gives another one.
        renewal: how the web process is started anew; None: it cannot be.
    Attributes:
        page: tells one page, as it was drawn, from another; "" before one is.
    Raises:
        DataUnusable, DiskFull: the data folder cannot be used, or another Easel uses it.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        command: Sequence[str] = ENGINE_COMMAND,
        patience: Patience | None = None,
        renewal: Renewal | None = None,
    ) -> None:
        self.settings = settings
        self.renewal = renewal
        self.page = ""
        recover_folders(settings.extension_folders[0])  # of an installation that was killed
        self.store = JobStore(settings.database)
        self.live = Live()
        self.catalog = Catalog.of(settings)
        self.inputs = Inputs(settings.inputs_dir)
        self._keeper = InputKeeper(self.inputs, self.store, settings)
        self._closing = threading.Event()
        self.outputs = Outputs(settings.outputs_dir, quality=settings.jpeg_quality)
        self._registry_file = settings.data_dir / "registry.json"
        self._registry = load_registry(self._registry_file)
        self._registries = 0  # that were taken
        self._host: ExtensionHost | None = None
        self.jobs = ToldJobs(self.store, self.live)
        self._snapshot_lock = threading.Lock()
        self._snapshot: dict[str, Any] = {"version": -1}
        self._dispatcher = Dispatcher(
            self.store,
            self.live,
            command,
            engine_environment(settings),
            on_ready=self._take_registry,
            on_deadly=partial(leave_out, settings),
            patience=patience,
        )

        self._watch = ModelWatch(
            self.catalog.files, is_busy=self._has_work, hashing=settings.hash_models == "when idle"
        )

    def start(self, *, feed: bool = True, handed: EngineHandedOver | None = None) -> None:
        """Start the engine process and hand it jobs; look for models; sweep up, now and every few hours.

        Args:
            feed: False: jobs wait until ``extend`` is called.
            handed: go on with this engine.
        """
        self._dispatcher.start(feed=feed, handed=handed)
        self._watch.start()
        threading.Thread(target=self._sweep, name="sweep", daemon=True).start()

    def extend(self, host: ExtensionHost) -> None:
        """Take the web side of the extensions in: what happens in the queue is told to them from now on."""
        self._host = host
        self.store.on_change = host.changed
        self._dispatcher.feed(host.pick if host.picks else None)

    def hand_over(self) -> EngineHandedOver | None:
        """Let the engine and its job go on without us; to be followed by ``close``. None: there is none to go on."""
        return self._dispatcher.hand_over()

    def close(self) -> None:
        """End the engine; what waits or runs is done after the next start."""
        self._closing.set()
        self._watch.stop()
        self._dispatcher.stop()
        if self._host is not None:
            self._host.close()
        self.store.close()

    @property
    def registry(self) -> dict[str, Any]:
        """Samplers and schedules the engine knows: its own word, or until it is up that of its last run."""
        return self._registry

    def submit(self, request: GenerationRequest, key: str | None = None) -> Job:
        """Fill in what the checkpoint wants, check what can be checked without the engine, and accept the job.

        The same ``key`` again gives the first job back.

        Raises:
            UserError: nothing was accepted; says why.
        """
        known = self.store.by_key(key) if key else None
        if known is not None:
            return known
        with self._keeper.lock:
            job = self._accept(request, key)
        self._dispatcher.wake()
        return job

    def cancel(self, job_id: str) -> Job:
        """Stop a job: at once if it waits, within a step if it runs. Raises ``NotFound``."""
        job = self.store.cancel(job_id)
        self._dispatcher.cancel(job_id)
        return job

    def look_at_queue(self) -> None:
        """Ask again which job is next."""
        self._dispatcher.wake()

    @property
    def version(self) -> int:
        """Rises whenever a new snapshot would differ."""
        return self.store.version + self.live.version + self.catalog.files.version + self._registries

    def snapshot(self) -> dict[str, Any]:
        """Engine, the models' version, and the last 30 jobs, newest first. Not to be changed."""
        with self._snapshot_lock:
            version = self.version  # read first: what changes meanwhile is told again under the next number
            if self._snapshot["version"] != version:
                engine = dataclasses.asdict(self.live.engine)
                self._snapshot = {
                    "version": version,
                    "page": self.page,
                    "engine": engine,
                    "models": self.catalog.files.version,
                    "registry": _digest(self._registry),
                    "jobs": self.jobs.newest(SHOWN_JOBS),
                }
            return self._snapshot

    def image(self, image_id: str) -> tuple[JobImage, Path]:
        """A picture of the history and its file, which lies in the outputs folder for sure. Raises ``NotFound``."""
        image = self.store.image(image_id)
        path = Path(image.path).resolve()
        if not path.is_relative_to(self.settings.outputs_dir.resolve()) or not path.is_file():
            raise NotFound("The file of this picture is gone from the outputs folder.", "Generate it again.")
        return image, path

    def image_made(self, image_id: str) -> dict[str, Any]:
        """A picture of the history and the request of its job. Raises ``NotFound``."""
        image, _ = self.image(image_id)
        return {"image": image_json(image), "request": request_to_json(self.store.get(image.job).request)}

    def store_input(self, data: bytes) -> StoredInput:
        """Keep an init image or a mask. Raises ``BadRequest``, ``DiskFull``."""
        return self._keeper.keep(data)

    def read_picture(self, data: bytes) -> PictureInfo:
        """What a picture's metadata say. Raises ``BadRequest``."""
        return read_picture(data, self._registry, self.files)

    def files(self, folder: str) -> dict[str, Path]:
        """The files of models/``folder`` that can be used, by name, as far as they are known now."""
        return {
            entry.name: entry.path for entry in self.catalog.files.listing() if entry.folder == folder and entry.usable
        }

    def count_tokens(self, checkpoint: str, prompt: str) -> tuple[int, int]:
        """Tokens used and the room there is (0/75), as the checkpoint's own tokenizer counts. Raises ``UserError``."""
        from backend.text.tokenize import count_tokens  # loads vocabularies: not before somebody asks

        return count_tokens(self.catalog.checkpoint(checkpoint), prompt, words=self.embedding_words())

    def count_t5_tokens(self, checkpoint: str, prompt: str) -> tuple[int, int] | None:
        """As ``count_tokens``, for T5; None if the checkpoint has none. Raises ``UserError``."""
        from backend.text.tokenize import count_tokens

        info = self.catalog.checkpoint(checkpoint)
        return count_tokens(info, prompt, "t5", words=self.embedding_words()) if info.t5 is not None else None

    def extensions_json(self) -> list[dict[str, Any]]:
        """Every extension as page and REST list it."""
        rows, pictures = self.live.extensions
        web = self._host.rows() if self._host is not None else ()
        return extension_rows(self.settings, rows, web, pictures=pictures)

    def find_words(self, starts: str, typed: str) -> tuple[str, list[dict[str, str]]]:
        """Words of extensions for what is being typed (``WordFinder.find``)."""
        return self._host.words.find(starts, typed) if self._host is not None else (typed, [])

    def switch_extension(self, name: str, *, on: bool) -> dict[str, Any]:
        """Approve an extension or switch it off, and start the engine anew when no job runs. Raises ``UserError``."""
        switch_extension(self.settings, name, on=on)
        if self._host is not None and not on:
            self._host.switched_off(name)
        engine = self.renew_engine()
        row = next(row for row in self.extensions_json() if row["name"] == name)
        told = f"{name} is {'on' if on else 'off'}. {engine}"
        if row["web"] is not None and row["web"]["pending"]:
            told += f" What it has in the page follows when {self._after_which()}."
        return {"extension": row, "told": told}

    def renew_engine(self) -> str:
        """Start the engine anew when no job runs, or at once if it does not answer any more. What to tell."""
        busy = bool(self.store.list(1, states=("running",)))
        self._dispatcher.renew()
        return f"The engine is started anew {'when the job at hand is finished' if busy else 'now'}."

    def renew_page(self) -> str:
        """Start this process anew as soon as no action is at work; the engine and its job go on. What to tell.

        To be called in the server's event loop.

        Raises:
            BadRequest: there is no launcher to watch over it.
        """
        if self.renewal is None:
            raise BadRequest("This Easel was started without its launcher.", f"For what is new in the page {BY_HAND}.")
        self.renewal.ask(lambda: self._dispatcher.acts)
        if self._dispatcher.acts:
            return "The page is started again as soon as the action of a panel has answered; jobs go on."
        return "The page is started again; jobs go on."

    def _after_which(self) -> str:
        return "you press Restart the page" if self.renewal is not None else f"Easel is started again: {BY_HAND}"

    def act(self, panel: str, name: str, request: GenerationRequest) -> dict[str, Any]:
        """Run an action of a panel in the engine, beside the job at hand, and wait for what it gives.

        Args:
            request: as the page would send it; it is checked and filled in as for a job.
        Raises:
            NotFound: no such panel or action.
            UserError: the request cannot be used, the engine is away, or the action failed.
        """
        seconds = action_seconds(self._registry, panel, name)
        if self.renewal is not None and self.renewal.is_asked:
            raise EngineAway("The page is being started again.", "Try again in a moment.")
        if panel not in request.extensions:
            request = dataclasses.replace(request, extensions={**request.extensions, panel: {}})
        self._keeper.check_room()  # it may give a picture
        with self._keeper.lock:
            resolved, _ = self._resolved(request)
        done = self._dispatcher.act(panel, name, request_to_json(resolved.request), seconds).result()
        picture = None
        if done.picture is not None:
            width, height = self.inputs.size(done.picture)
            url = f"/api/v1/inputs/{done.picture}"
            picture = {"sha256": done.picture, "width": width, "height": height, "url": url}
        told = {"text": done.text, "values": done.values, "fields": done.fields, "seconds": done.seconds}
        return {**told, "picture": picture, "notes": [*resolved.notes, *done.notes]}

    def _has_work(self) -> bool:
        return bool(self.store.list(1, states=("queued", "running")))

    def embedding_words(self) -> EmbeddingWords:
        """The embeddings that prompts may name, as far as they are known now."""
        return embedding_words(self.catalog.files.folder("embeddings", look=False))

    def _accept(self, request: GenerationRequest, key: str | None) -> Job:
        resolved, info = self._resolved(request)
        check_tags(resolved.request, info, self._registry, self.catalog.adapter)
        for cell in swept(resolved.request, self._registry):
            ready, other = self._resolved(cell)
            check_tags(ready.request, other, self._registry, self.catalog.adapter)
        return self.store.submit(resolved.request, key, notes=resolved.notes)

    def _resolved(self, request: GenerationRequest) -> tuple[Resolved, CheckpointInfo]:
        """The request with everything filled in that can be known here, and checked; and its checkpoint."""
        info, vae = self.catalog.asked_by(request)
        init_size = self.inputs.size(request.init_image) if request.init_image else None
        if request.mask:
            self._check_mask(request.mask, init_size)
        refiner = self.catalog.refiner(request.refiner) if request.refiner else None
        resolved = resolve(
            request,
            info,
            self._registry,
            vae=vae,
            refiner=refiner,
            init_size=init_size,
            rng=random.SystemRandom(),
        )
        for kind, where, name in references(resolved.request, self._registry):
            if kind == "picture":
                self.inputs.path(name)
            else:
                self.catalog.files.find(name, folder_named(where))
        return resolved, info

    def _sweep(self) -> None:
        count = self.outputs.sweep() + sweep_temps(self.settings.inputs_dir)
        if count:
            log.info("%d unfinished files of a killed process were removed", count)
        while True:
            try:
                self._keeper.prune()
            except Exception:
                log.exception("a fault while old inputs were looked for")
            if self._closing.wait(SWEEP_SECONDS):
                return

    def _check_mask(self, mask: str, init_size: tuple[int, int] | None) -> None:
        size = self.inputs.size(mask)
        if init_size is not None and size != init_size:
            raise BadRequest(
                f"The mask has {size[0]} x {size[1]} pixels, the init image {init_size[0]} x {init_size[1]}.",
                "Send a mask of the init image's size.",
                field="mask",
            )

    def _take_registry(self, registry: dict[str, Any]) -> None:
        if is_registry(registry):
            self._registry = registry
            self._registries += 1
            save_registry(self._registry_file, registry)


def _digest(registry: Mapping[str, Any]) -> str:
    """Another one whenever the document says anything else."""
    return hashlib.sha256(json.dumps(registry, sort_keys=True).encode()).hexdigest()[:16]
