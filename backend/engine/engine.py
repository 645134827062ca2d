"""The engine: a plain object that turns a request into pictures, in a script, a test or behind the page.

All mutable state of the backend hangs on it: resident models, measured speeds, the catalog's cache.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from random import SystemRandom
from typing import Any

import torch
from PIL import Image, ImageOps

from backend.diffusion.denoiser import Batching
from backend.diffusion.patched import PatchSet
from backend.diffusion.registry import SCHEMA
from backend.diffusion.samplers.spec import StepState
from backend.engine import pipeline
from backend.engine.adapters import AdapterShelf
from backend.engine.device import choose_device, dtype_name
from backend.engine.extensions import Extensions
from backend.engine.job import Job, no_patches
from backend.engine.models import ModelManager, PartKey
from backend.engine.plan import Speeds, activation_bytes, make_plan
from backend.engine.preview import Previews
from backend.engine.shares import Share, branches_at_once, guidance_of, shares_of, with_refiner
from backend.errors import BadRequest, Cancelled, ModelUnsupported, OutOfMemory, UserError
from backend.events import Done, ImageSaved, JobEvent, Note, Plan, Planned, Residents, Step
from backend.extending import ModelView
from backend.families.table import FAMILIES
from backend.formats.configs import CheckpointInfo, VaeInfo
from backend.nn.mmdit import MMDiT
from backend.nn.unet import UNet
from backend.records.catalog import Catalog
from backend.records.hashes import tensors_hash
from backend.records.images import Inputs
from backend.records.infotext import parameters_text
from backend.records.outputs import Outputs
from backend.records.resolve import MAX_DRAWN_SEED, resolve
from backend.records.tags import find_tags
from backend.request import GenerationRequest
from backend.settings import Settings
from backend.text.embeddings import embedding_words

log = logging.getLogger(__name__)
VERSION = "0.1.0"
MAX_DEPTH = 2  # jobs within jobs that extensions start
BATCHED_PIXELS = 1024 * 1024  # on a CPU, above this the activations of a doubled batch cost more than they save


@dataclass(frozen=True)
class Picture:
    """One finished picture: in memory, or, where outputs were given, in the file at ``path`` alone.

    A job of 1,600 pictures would hold gigabytes otherwise.
    """

    seed: int
    parameters: str
    path: Path | None = None
    kept: Image.Image | None = None

    @property
    def image(self) -> Image.Image:
        """The picture; read from its file if it is not kept."""
        if self.kept is not None:
            return self.kept
        if self.path is None:
            raise ValueError("a picture is either kept or saved")
        with Image.open(self.path) as image:
            return image.convert("RGB")


@dataclass(frozen=True)
class GenerationResult:
    """What a request became: the request with every open field filled, its pictures, and what there is to say."""

    request: GenerationRequest
    pictures: tuple[Picture, ...]
    notes: tuple[str, ...]
    plan: Plan
    seconds: float


class Engine:
    """Runs requests one at a time.

    Args:
        settings: folders, device and budgets.
        on_residents: told after every change of what is in memory.
    """

    def __init__(self, settings: Settings, on_residents: Callable[[Residents], None] | None = None) -> None:
        self.settings = settings
        self.policy = choose_device(settings.device, settings.dtype, settings.memory_gb, settings.low_memory)
        if settings.threads:
            torch.set_num_threads(settings.threads)
        self._on_residents = on_residents
        self._known_parts: frozenset[PartKey] = frozenset()
        self.manager = ModelManager(self.policy, self._tell_residents)
        self.catalog = Catalog.of(settings)
        self.extensions = Extensions.load(settings)
        self.registry: dict[str, Any] = {"schema": SCHEMA, **self.extensions.document()}
        self.inputs = Inputs(settings.inputs_dir)
        self.outputs = Outputs(settings.outputs_dir, quality=settings.jpeg_quality, registry=self.registry)
        self.previews = Previews(self.policy)
        self.speeds = Speeds()
        self.prompts = pipeline.PromptCache()
        self.adapters = AdapterShelf(self.catalog)
        self.rng = SystemRandom()  # draws the seeds that a request leaves open
        self.extensions.started(settings.data_dir)

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
        run = _Run(self, on_event or (lambda _event: None), cancel or threading.Event(), outputs, job)
        try:
            return run.whole(request)
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise self._out_of_memory(run.request or request) from error
        except RuntimeError as error:
            if "DefaultCPUAllocator" in str(error):  # a plain RuntimeError is all that a CPU gives
                raise self._out_of_memory(run.request or request) from error
            raise

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
        self.extensions.stopped()

    def _tell_residents(self, parts: Sequence[PartKey]) -> None:
        for key in parts:
            if key not in self._known_parts:
                self.extensions.tell_loaded(key.name, key.part)
        self._known_parts = frozenset(parts)
        if self._on_residents:
            self._on_residents(Residents(parts=tuple(map(str, parts)), bytes=sum(key.bytes for key in parts)))


class _Run:
    """One call of ``Engine.generate``."""

    def __init__(
        self,
        engine: Engine,
        on_event: Callable[[JobEvent], None],
        cancel: threading.Event,
        outputs: Outputs | None,
        job: str,
        depth: int = 0,
    ) -> None:
        if depth > MAX_DEPTH:
            raise BadRequest(
                f"Extensions started jobs within jobs {depth} deep.",
                "Switch off one of those that make pictures of their own.",
                field="extensions",
            )
        self.depth = depth
        self.engine = engine
        self.on_event = on_event
        self.cancel = cancel
        self.outputs = outputs
        self.job = job
        self.notes: list[str] = []
        self.request: GenerationRequest | None = None  # resolved, once it is
        self.started = time.perf_counter()
        self.batches = 0  # of the whole order, which extensions may make several requests of
        self.batches_done = 0
        self.pictures_done = 0
        self._adapter_files: tuple[Path, ...] = ()  # of the request at hand
        self._patches: dict[Path, PatchSet] = {}  # of the request at hand, by checkpoint

    def whole(self, request: GenerationRequest) -> GenerationResult:
        """An order from beginning to end; extensions may make several requests of it."""
        extensions = self.engine.extensions
        if request.extensions and request.seed == -1:  # so that what an extension draws can follow from the seed
            request = replace(request, seed=self.engine.rng.randint(0, MAX_DRAWN_SEED))
        requests, makers = extensions.expand(request, self.note)
        self.batches = sum(part.batch_count for part in requests)
        pictures: list[Picture] = []
        made: list[GenerationRequest] = []
        plan = Plan()
        for part in requests:
            resolved, plan, done = self.generate(part)
            pictures += done
            made += [resolved] * len(done)
        for owner in makers:
            pictures += self._added(owner, request, pictures, made, plan)
        seconds = time.perf_counter() - self.started
        self.on_event(Done(job=self.job, seconds=seconds))
        return GenerationResult(made[0], tuple(pictures), tuple(self.notes), plan, seconds)

    def generate(self, request: GenerationRequest) -> tuple[GenerationRequest, Plan, list[Picture]]:
        """One request: resolved, its plan and its pictures."""
        engine = self.engine
        self._patches.clear()
        job = self._prepare(request)
        request = self.request = job.request
        sigmas = pipeline.sigmas_of(job)
        steps = len(sigmas) - 1
        shares = shares_of(job, sigmas)
        self._tell_shares(job, shares)
        plan = self._plan(job, shares, steps)
        self.on_event(Planned(job=self.job, plan=plan))
        engine.manager.drop(engine.manager.switched_off(job.info, request))
        hashes = _HashInBackground(engine, job, self._adapter_files)

        prompting = engine.prompts.encode(job, engine.manager, steps)
        for note in prompting.notes:
            self.note(note)
        embeddings = self._embedding_facts(prompting)
        start = pipeline.prepare_start(job, engine.manager)
        pictures: list[Picture] = []
        ends: list[float] = []  # when each checkpoint had made its steps of the batch, but the last
        on_step = self._step_teller(job, shares, ends)
        batch_started = time.perf_counter()
        for index, seeds, latents in pipeline.sample_batches(job, engine.manager, prompting, start, sigmas, on_step):
            pixels = (request.width or 0) * (request.height or 0)
            marks = [batch_started, *ends, time.perf_counter()]
            for share, (begin, end) in zip(shares, pairwise(marks), strict=True):
                engine.speeds.learn(share.job.info.name, share.calls // request.batch_count, pixels, end - begin)
            ends.clear()
            images = pipeline.decode_latents(job, engine.manager, latents)
            batch = pipeline.finish_batch(start, index, seeds, images)
            pictures += self._finish(job, batch, hashes.wait(self.note) | embeddings, plan)
            batch_started = time.perf_counter()
        self.batches_done += request.batch_count
        return request, plan, pictures

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)
            self.on_event(Note(job=self.job, text=text))

    def check(self) -> None:
        if self.cancel.is_set():
            raise Cancelled("The job was stopped.")

    def _prepare(self, request: GenerationRequest) -> Job:
        engine = self.engine
        info, vae = engine.catalog.asked_by(request)
        refiner = engine.catalog.refiner(request.refiner) if request.refiner else None
        image = engine.inputs.load(request.init_image) if request.init_image else None
        mask = engine.inputs.load_mask(request.mask) if request.mask else None
        resolved = resolve(
            request,
            info,
            engine.registry,
            rng=engine.rng,
            init_size=image.size if image else None,
            vae=vae,
            refiner=refiner,
        )
        for note in resolved.notes:
            self.note(note)
        family = FAMILIES[info.family]
        request = resolved.request
        if mask is not None and image is not None and mask.size != image.size:
            self.note(
                f"The mask has another size than the picture and was stretched to {image.width} x {image.height}."
            )
            mask = mask.resize(image.size, Image.Resampling.BILINEAR)
        if mask is not None and request.invert_mask:
            mask = ImageOps.invert(mask)
        tags = frozenset(engine.extensions.tags)
        choices = engine.extensions.adapters(request, find_tags(request, tags), self.note)
        adapters, self._adapter_files = engine.adapters.uses(choices, info, self.note)
        if adapters and refiner is not None:
            self.note(f"LoRAs act on {info.name} alone, not on the refiner.")
        job = Job(
            request=request,
            info=info,
            vae=vae,
            family=family,
            prediction=family.prediction(info, request),
            init_image=image,
            mask=mask,
            batching=engine.batching(request, branches=branches_at_once(info)),
            check=self.check,
            on_note=self.note,
            words=embedding_words(engine.catalog.folder("embeddings")),
            samplers=engine.extensions.samplers,
            schedules=engine.extensions.schedules,
            values=engine.extensions.values(request),
            patches_for=self._patches_for if engine.extensions.patching(request) else no_patches,
            adapters=adapters,
            tags=tags,
        )
        return job if refiner is None else with_refiner(job, refiner)

    def _tell_shares(self, job: Job, shares: Sequence[Share]) -> None:
        """Say it when a refiner, or skip-layer guidance, was asked for and falls on none of the steps."""
        steps = shares[-1].until
        begins = (0, *(share.until for share in shares))
        skips = [(guidance_of(share.job).skip, range(begin, share.until)) for share, begin in zip(shares, begins)]
        if any(skip for skip, _ in skips) and not any(
            skip.acts_at(step, steps) for skip, own in skips if skip for step in own
        ):
            start, end = job.request.skip_layer_start, job.request.skip_layer_end
            self.note(
                f"Skip-layer guidance falls on none of the {steps} steps: none but the first lies between "
                f"{start:g} and {end:g} of them. Set its end later, or make more steps."
            )
        if job.refiner is not None and len(shares) < 2:
            idle = job.refiner if shares[0].job is job else job
            self.note(
                f"{idle.info.name} makes none of the steps: at {job.request.refiner_switch:g} the refiner takes over "
                f"{'after the last' if idle is job.refiner else 'before the first'} of them."
            )

    def _plan(self, job: Job, shares: Sequence[Share], steps: int) -> Plan:
        engine, info, request = self.engine, job.info, job.request
        vae_info: CheckpointInfo | VaeInfo = job.vae or info
        parts = [
            engine.manager.key(each.info, part)
            for each in filter(None, (job, job.refiner))
            if not engine.prompts.holds(each, engine.manager, steps)
            for part in each.family.text_parts(each.info, each.request)
        ]
        parts += [engine.manager.key(share.job.info, "denoiser") for share in shares]
        parts.append(engine.manager.key(vae_info, "vae"))
        vae_config = job.vae.config if job.vae else info.vae
        if vae_config is None:
            raise ModelUnsupported(f"{info.name} has no VAE.", "Choose one from models/vae.", field="vae")
        return make_plan(
            engine.manager, request, parts, switched_off=engine.manager.switched_off(info, request),
            activations=max(
                activation_bytes(
                    request, share.job.info, vae_config,
                    together=branches_at_once(share.job.info) if job.batching == "batched" else 1,
                )
                for share in shares
            ),
            calls=[(share.job.info.name, share.calls) for share in shares],
            guidance=job.batching, speeds=engine.speeds,
        )  # fmt: skip

    def _patches_for(self, job: Job, network: UNet | MMDiT) -> PatchSet:
        """What the extensions change for one of the job's networks; each is asked once."""
        if job.info.path not in self._patches:
            steps = len(pipeline.sigmas_of(job)) - 1
            model = ModelView(
                info=job.info,
                places=network.places,
                latent=pipeline.latent_shape(job),
                steps=steps,
                device=self.engine.policy.device,
                encode=partial(pipeline.encode_one, job, self.engine.manager),
            )
            self._patches[job.info.path] = self.engine.extensions.patches(job.request, model, self.note)
        return self._patches[job.info.path]

    def _embedding_facts(self, prompting: pipeline.Prompting) -> dict[str, str]:
        """What the metadata say of the embeddings that were read, as A1111 writes it."""
        try:
            hashes = [f"{each.name}: {tensors_hash(each.path)[:12]}" for each in prompting.embeddings]
        except UserError as error:  # gone behind our back, after it was read
            self.note(f"The pictures carry no hashes of their embeddings. {error}")
            return {}
        return {"ti_hashes": ", ".join(hashes)} if hashes else {}

    def _step_teller(self, job: Job, shares: Sequence[Share], ends: list[float]) -> pipeline.OnBatchStep:
        """Tells each step, and notes in ``ends`` when a checkpoint but the last has made its own."""
        steps, handed_over = shares[-1].until, {share.until for share in shares[:-1]}
        batches, before, every = self.batches, self.batches_done, self.engine.settings.preview_every
        preview = self._preview_maker(job) if every else None
        started = time.perf_counter()

        def tell(batch: int, state: StepState) -> None:
            self.check()
            if state.index + 1 in handed_over:
                ends.append(time.perf_counter())
            done, whole = batch * steps + state.index + 1, (batches - before) * steps
            elapsed = time.perf_counter() - started
            due = every and ((state.index + 1) % every == 0 or state.index + 1 == steps)
            self.on_event(
                Step(
                    job=self.job,
                    step=state.index + 1,
                    steps=steps,
                    batch=before + batch,
                    batches=batches,
                    seconds_left=elapsed / done * (whole - done),
                    preview=preview(state.denoised) if preview and due else None,
                )
            )

        return tell

    def _preview_maker(self, job: Job) -> Callable[[torch.Tensor], str]:
        engine = self.engine
        file = engine.catalog.preview_decoder(job.info) if engine.settings.preview_decoder == "auto" else None
        return engine.previews.maker(pipeline.latent_format(job), file, self.note)

    def _finish(self, job: Job, batch: pipeline.Batch, hashes: dict[str, str], plan: Plan) -> Iterator[Picture]:
        """Save a batch's pictures, if they are to be saved, and tell each as soon as it is on disk."""
        facts = self._facts(hashes, plan)
        first = batch.index * job.request.batch_size
        for index, (decoded, seed) in enumerate(zip(batch.images, batch.seeds, strict=True), start=first):
            image = self._changed(job, decoded)
            yield self._kept(image, job.request, facts, index=index, seed=seed)

    def _kept(
        self, image: Image.Image, request: GenerationRequest, facts: dict[str, str], *, index: int, seed: int
    ) -> Picture:
        """Save a picture, ``index`` of its request, if pictures are saved, and tell of it."""
        place, self.pictures_done = self.pictures_done, self.pictures_done + 1
        if self.outputs is None:
            parameters = parameters_text(request, facts, self.engine.registry, index=index)
            return Picture(seed, parameters, kept=image)
        saved = self.outputs.save(image, job=self.job, index=index, place=place, request=request, facts=facts)
        for note in saved.notes:
            self.note(note)
        self.on_event(
            ImageSaved(
                job=self.job,
                index=place,
                path=str(saved.path),
                seed=seed,
                width=image.width,
                height=image.height,
                parameters=saved.parameters,
            )
        )
        self.engine.extensions.tell_saved(request, saved.path, saved.parameters)
        return Picture(seed, saved.parameters, path=saved.path)

    def _changed(self, job: Job, image: Image.Image) -> Image.Image:
        """A decoded picture after the extensions that change pictures."""
        return self.engine.extensions.finish(
            job.request, image, self.pictures_done, self.note, partial(self._nested, job.request)
        )

    def _nested(
        self,
        outer: GenerationRequest,
        request: GenerationRequest,
        *,
        init_image: Image.Image | None = None,
        mask: Image.Image | None = None,
    ) -> tuple[Image.Image, ...]:
        """Pictures for a hook, as a part of this job: its cancel and its notes, and nothing saved."""
        inputs = self.engine.inputs
        if init_image is not None:
            request = replace(request, init_image=inputs.store_image(init_image))
        if mask is not None:
            request = replace(request, mask=inputs.store_image(mask))
        part = _Run(self.engine, self._tell_nested, self.cancel, None, self.job, depth=self.depth + 1)
        result = part.whole(replace(request, checkpoint=request.checkpoint or outer.checkpoint))
        return tuple(picture.image for picture in result.pictures)

    def _tell_nested(self, event: JobEvent) -> None:
        if isinstance(event, Step | Note):
            self.on_event(event)

    def _added(
        self, owner: str, request: GenerationRequest, pictures: list[Picture], made: list[GenerationRequest], plan: Plan
    ) -> list[Picture]:
        """What an extension makes of all pictures of an order that it turned into several: a grid."""
        images = [picture.image for picture in pictures]
        extra = self.engine.extensions.pictures_of(owner, request, images, made, self.note)
        facts = self._facts({}, plan)
        whole = replace(made[0], extensions=request.extensions)  # a grid says what it is a grid of
        return [self._kept(image, whole, facts, index=0, seed=whole.seed) for image in extra]

    def _facts(self, hashes: dict[str, str], plan: Plan) -> dict[str, str]:
        return {
            **hashes,
            "device": self.engine.policy.device.type,
            "dtype": self.engine.dtype,
            "guidance": plan.guidance,
            "version": VERSION,
        }


class _HashInBackground:
    """Computes the model hashes while the picture is made: they stand in its metadata, always."""

    def __init__(self, engine: Engine, job: Job, adapters: Sequence[Path]) -> None:
        self._result: dict[str, str] = {}
        self._trouble = ""
        work = (engine.catalog, job, engine.adapters, adapters)
        self._thread = threading.Thread(target=self._compute, args=work, name="hashes", daemon=True)
        self._thread.start()

    def _compute(self, catalog: Catalog, job: Job, shelf: AdapterShelf, adapters: Sequence[Path]) -> None:
        try:
            if adapters:  # as A1111 writes it
                self._result["lora_hashes"] = ", ".join(f"{path.stem}: {shelf.hash_of(path)}" for path in adapters)
            self._result["model_hash"] = catalog.model_hash(job.info.sources["denoiser"].paths[0])
            if job.refiner:
                self._result["refiner_hash"] = catalog.model_hash(job.refiner.info.sources["denoiser"].paths[0])
            if job.vae:
                self._result["vae_hash"] = catalog.model_hash(job.vae.source.paths[0])
        except UserError as error:  # the file went away behind our back; the picture is good all the same
            self._trouble = f"The pictures carry no model hash. {error}"

    def wait(self, on_note: Callable[[str], None]) -> dict[str, str]:
        self._thread.join()
        if self._trouble:
            on_note(self._trouble)
        return self._result
