"""One order from beginning to end: what extensions make of it, its plan, its batches, and what becomes of each picture.

State of the order alone; what outlives it is the engine's.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from PIL import Image

from backend.diffusion.patched import PatchSet
from backend.diffusion.samplers.spec import StepState
from backend.engine import pipeline
from backend.engine.expansion import Expansion, Made, expand, expansions_of
from backend.engine.file_hashes import HashInBackground
from backend.engine.foresight import idle_parts, plan_of
from backend.engine.job import Job
from backend.engine.job_views import Between
from backend.engine.latents import decode_latents, latent_format
from backend.engine.model_view import model_view
from backend.engine.order_check import checked
from backend.engine.prepare import prepare_job
from backend.engine.progress import Progress
from backend.engine.prompting import Prompting
from backend.engine.result import VERSION, GenerationResult, Picture
from backend.engine.shares import Share, shares_of, with_branches
from backend.engine.shelves import Shelf, Shelves
from backend.engine.start import prepare_start
from backend.engine.uses import Use
from backend.errors import BadRequest, Cancelled, UserError
from backend.events import Done, ImageSaved, JobEvent, Note, Plan, Planned, Step
from backend.records.hashes import tensors_hash
from backend.records.outputs import Outputs
from backend.records.parameters_text import parameters_text
from backend.records.resolve import MAX_DRAWN_SEED
from backend.request import GenerationRequest

if TYPE_CHECKING:
    from backend.engine.engine import Engine

MAX_DEPTH = 2  # jobs within jobs that extensions start


@dataclass(frozen=True)
class Making:
    """What is to be computed of one request: its batches that are not there yet."""

    job: Job
    sigmas: torch.Tensor
    shares: Sequence[Share]
    batches: Sequence[int]
    plan: Plan
    hashes: HashInBackground


class Run:
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
        self.pictures_done = 0  # of the whole order, which extensions may make several requests of
        self._found = 0  # of them, that were there already
        self._share = 0.0  # of the whole order's work, that is done
        self._patches: dict[Path, PatchSet] = {}  # of the request at hand, by checkpoint
        self._between = Between()  # the hooks of the request at hand

    def whole(self, request: GenerationRequest) -> GenerationResult:
        """An order from beginning to end; extensions may make several requests of it."""
        extensions = self.engine.extensions
        if request.extensions and request.seed == -1:  # so that what an extension draws can follow from the seed
            request = replace(request, seed=self.engine.rng.randint(0, MAX_DRAWN_SEED))
        parts = expand(extensions, request, self.note)
        progress = Progress(checked(self.engine, parts) if len(parts) > 1 else [request])
        shelves = Shelves(self.outputs, self.job, request, parts)
        made: list[Made] = []
        plan = Plan()
        with shelves.emptied():
            for number, part in enumerate(parts):
                progress.begin(number)
                resolved, plan, done = self.generate(part.request, shelves.of(part), progress)
                made += [Made(picture, part, resolved) for picture in done]
            pictures = [each.picture for each in made if each.part.kept]
            for expansion in expansions_of(parts):
                pictures += self._added(expansion, made, plan, shelves.shown)
        if self._found:
            self.note(f"{self._found} of the pictures were there already and were not made again.")
        seconds = time.perf_counter() - self.started
        self.on_event(Done(job=self.job, seconds=seconds))
        return GenerationResult(made[0].request, tuple(pictures), tuple(self.notes), plan, seconds)

    def generate(
        self, request: GenerationRequest, shelf: Shelf, progress: Progress
    ) -> tuple[GenerationRequest, Plan, list[Picture]]:
        """One request of the order: resolved, its plan and its pictures; its patches keep nothing when it is done."""
        with self.engine.manager.using(Use(check=self.check, tell=self.note)) as use:
            try:
                return self._request(request, shelf, progress, use)
            finally:
                self._patches.clear()

    def _request(
        self, request: GenerationRequest, shelf: Shelf, progress: Progress, use: Use
    ) -> tuple[GenerationRequest, Plan, list[Picture]]:
        engine = self.engine
        job, adapter_files = self.prepared(request, use)
        request = self.request = job.request
        progress.resolved(request)
        sigmas = pipeline.sigmas_of(job)
        steps = len(sigmas) - 1
        foreseen = engine.extensions.foreseen(request, self.note, self._between)
        shares = with_branches(shares_of(job, sigmas), [window for each in foreseen for window in each.branches])
        for note in idle_parts(job, shares):
            self.note(note)
        plan = plan_of(engine, job, shares, steps, [network for each in foreseen for network in each.networks])
        hashes = HashInBackground(engine, job, adapter_files)
        looked = shelf.made is not None
        found = shelf.found(request, self._facts(hashes.wait(self.note), plan)) if looked else {}
        size = request.batch_size
        missing = [n for n in range(request.batch_count) if any(n * size + place not in found for place in range(size))]
        pictures = {index: picture for index, picture in found.items() if index // size not in missing}
        self._take(pictures, shelf)
        progress.batches_found(request.batch_count - len(missing))
        if missing:
            self.on_event(Planned(job=self.job, plan=plan))
            engine.manager.drop(engine.manager.switched_off(job.info, request))
            pictures |= self._make(Making(job, sigmas, shares, missing, plan, hashes), shelf, progress)
        shelf.taken += len(pictures)
        self.pictures_done += len(pictures)
        return request, plan, [pictures[index] for index in sorted(pictures)]

    def prepared(self, request: GenerationRequest, use: Use | None = None) -> tuple[Job, tuple[Path, ...]]:
        """One request of the order as ``prepare_job`` has it, with patches of its own.

        Args:
            use: has the networks that the patches compute with; None: nobody, they may leave at any time.
        """
        self._patches.clear()
        self._between = Between(use=use or Use())
        return prepare_job(
            self.engine, request, check=self.check, note=self.note, between=self._between, patches_for=self._patches_for
        )

    def _make(self, making: Making, shelf: Shelf, progress: Progress) -> dict[int, Picture]:
        """The pictures of the batches to be made, by their place in the request."""
        with self.engine.extensions.guard.sampling(partial(self._at_work, making.job)) as check_torch:
            return self._made(making, shelf, progress, check_torch)

    def _made(
        self, making: Making, shelf: Shelf, progress: Progress, check_torch: Callable[[], None]
    ) -> dict[int, Picture]:
        """As ``_make``; ``check_torch`` is called for each batch before anything of it is saved."""
        engine, job, sigmas, shares = self.engine, making.job, making.sigmas, making.shares
        request = job.request
        prompting = engine.prompts.encode(job, engine.manager, len(sigmas) - 1)
        for note in prompting.notes:
            self.note(note)
        embeddings = self._embedding_facts(prompting)
        start = prepare_start(job, engine.manager)
        pictures: dict[int, Picture] = {}
        ends: list[float] = []  # when each checkpoint had made its steps of the batch, but the last
        on_step = self._step_teller(job, shares, ends, progress)
        batch_started = time.perf_counter()
        made = pipeline.sample_batches(job, engine.manager, prompting, start, sigmas, on_step, making.batches)
        for index, seeds, latents in made:
            pixels = (request.width or 0) * (request.height or 0)
            marks = [batch_started, *ends, time.perf_counter()]
            for share, (begin, end) in zip(shares, pairwise(marks), strict=True):
                engine.speeds.learn(share.job.info.name, share.calls // request.batch_count, pixels, end - begin)
            ends.clear()
            images = decode_latents(job, engine.manager, latents)
            check_torch()
            batch = pipeline.finish_batch(start, index, seeds, images)
            facts = self._facts(making.hashes.wait(self.note) | embeddings, making.plan)
            pictures |= self._finish(job, batch, facts, shelf)
            progress.batch_over()
            batch_started = time.perf_counter()
        return pictures

    def note(self, text: str) -> None:
        """Tell the user a sentence, once."""
        if text not in self.notes:
            self.notes.append(text)
            self.on_event(Note(job=self.job, text=text))

    def check(self) -> None:
        """Raise ``Cancelled`` if the user has stopped the job."""
        if self.cancel.is_set():
            raise Cancelled("The job was stopped.")

    def _patches_for(self, job: Job) -> PatchSet:
        """What the extensions change for one of the job's networks; each is asked once."""
        if job.info.path not in self._patches:
            manager = self.engine.manager
            with manager.using(job.use()) as use:
                model = model_view(self.engine, job, manager.denoiser(job.info, job.adapters, use), self._between.use)
                found = self.engine.extensions.patches(job.request, model, self.note, self._between)
            self._patches[job.info.path] = found
        return self._patches[job.info.path]

    def _at_work(self, job: Job) -> list[str]:
        """The extensions of which a patch, the sampler or the schedule was called; those that a user added, if any."""
        owners = {patch.owner for patches in self._patches.values() for patch in patches.patches}
        for kind, name in (("samplers", job.sampler.name), ("schedules", job.request.schedule)):
            owners |= {row.get("owner", "") for row in self.engine.registry[kind] if row["name"] == name}
        known = self.engine.extensions.plugins.extensions
        added = [owner for owner in owners if owner in known and not known[owner].found.is_bundled]
        return sorted(added or owners - {""})

    def _embedding_facts(self, prompting: Prompting) -> dict[str, str]:
        """What the metadata say of the embeddings that were read, as A1111 writes it."""
        try:
            hashes = [f"{each.name}: {tensors_hash(each.path)[:12]}" for each in prompting.embeddings]
        except UserError as error:  # gone behind our back, after it was read
            self.note(f"The pictures carry no hashes of their embeddings. {error}")
            return {}
        return {"ti_hashes": ", ".join(hashes)} if hashes else {}

    def _step_teller(
        self, job: Job, shares: Sequence[Share], ends: list[float], progress: Progress
    ) -> pipeline.OnBatchStep:
        """Tells each step, and notes in ``ends`` when a checkpoint but the last has made its own."""
        steps, handed_over = shares[-1].until, {share.until for share in shares[:-1]}
        every = self.engine.settings.preview_every
        preview = self._preview_maker(job) if every else None
        progress.start_clock()

        def tell(_batch: int, state: StepState) -> None:
            self.check()
            if state.index + 1 in handed_over:
                ends.append(time.perf_counter())
            share, seconds_left = progress.step((state.index + 1) / steps)
            self._share = share
            due = every and ((state.index + 1) % every == 0 or state.index + 1 == steps)
            self.on_event(
                Step(
                    job=self.job,
                    step=state.index + 1,
                    steps=steps,
                    batch=progress.batch,
                    batches=progress.batches,
                    share=share,
                    seconds_left=seconds_left,
                    preview=preview(state.denoised) if preview and due else None,
                )
            )

        return tell

    def _preview_maker(self, job: Job) -> Callable[[torch.Tensor], str]:
        engine = self.engine
        file = engine.catalog.preview_decoder(job.info) if engine.settings.preview_decoder == "auto" else None
        return engine.previews.maker(latent_format(job), file, self.note)

    def _finish(self, job: Job, batch: pipeline.Batch, facts: dict[str, str], shelf: Shelf) -> dict[int, Picture]:
        """Save a batch's pictures, if they are to be saved, and tell each as soon as it is on disk."""
        finished: dict[int, Picture] = {}
        first = batch.index * job.request.batch_size
        for index, (decoded, seed) in enumerate(zip(batch.images, batch.seeds, strict=True), start=first):
            image = self._changed(job, decoded, self.pictures_done + index)
            told, place = facts | self._between.facts, shelf.taken + index
            finished[index] = self._kept(image, job.request, told, shelf, index=index, place=place, seed=seed)
        return finished

    def _kept(
        self,
        image: Image.Image,
        request: GenerationRequest,
        facts: dict[str, str],
        shelf: Shelf,
        *,
        index: int,
        place: int,
        seed: int,
    ) -> Picture:
        """Save a picture, ``index`` of its request and ``place`` of all, if pictures are saved, and tell of it."""
        if shelf.outputs is None:
            parameters = parameters_text(request, facts, self.engine.registry, index=index)
            return Picture(seed, parameters, kept=image)
        saved = shelf.outputs.save(image, job=self.job, index=index, place=place, request=request, facts=facts)
        for note in saved.notes:
            self.note(note)
        picture = Picture(seed, saved.parameters, path=saved.path)
        if shelf.is_shown:
            self._tell_saved(picture, place, image.size)
            self.engine.extensions.tell_saved(request, saved.path, saved.parameters)
        return picture

    def _take(self, pictures: Mapping[int, Picture], shelf: Shelf) -> None:
        """Tell of pictures of a request that are there already."""
        self._found += len(pictures)
        for index, picture in pictures.items():
            if shelf.is_shown:
                self._tell_saved(picture, shelf.taken + index, picture.image.size)

    def _tell_saved(self, picture: Picture, place: int, size: tuple[int, int]) -> None:
        self.on_event(
            ImageSaved(
                job=self.job,
                index=place,
                path=str(picture.path),
                seed=picture.seed,
                width=size[0],
                height=size[1],
                parameters=picture.parameters,
            )
        )

    def _changed(self, job: Job, image: Image.Image, index: int) -> Image.Image:
        """A decoded picture, ``index`` of the order, after the extensions that change pictures."""
        run = partial(self._nested, job.request)
        return self.engine.extensions.finish(job.request, image, index, self.note, run, self._between)

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
        part = Run(self.engine, self._tell_nested, self.cancel, None, self.job, depth=self.depth + 1)
        result = part.whole(replace(request, checkpoint=request.checkpoint or outer.checkpoint))
        return tuple(picture.image for picture in result.pictures)

    def _tell_nested(self, event: JobEvent) -> None:
        """Steps of a job within this one show, but the bar of the whole order stays where it is."""
        if isinstance(event, Step):
            self.on_event(replace(event, share=self._share, seconds_left=None))
        elif isinstance(event, Note):
            self.on_event(event)

    def _added(self, expansion: Expansion, made: Sequence[Made], plan: Plan, shelf: Shelf) -> list[Picture]:
        """What an extension makes of all pictures of an order that it turned into several: a grid."""
        extra = self.engine.extensions.pictures_of(expansion, made, self.note)
        order = expansion.request  # a grid says what it is a grid of
        order = replace(order, checkpoint=order.checkpoint or made[0].request.checkpoint)
        facts, first = self._facts({}, plan), shelf.taken
        shelf.taken += len(extra)
        return [
            self._kept(image, order, facts, shelf, index=0, place=place, seed=order.seed)
            for place, image in enumerate(extra, start=first)
        ]

    def _facts(self, hashes: dict[str, str], plan: Plan) -> dict[str, str]:
        return {
            **hashes,
            "device": self.engine.policy.device.type,
            "dtype": self.engine.dtype,
            "guidance": plan.guidance,
            "version": VERSION,
        }
