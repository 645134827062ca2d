"""Every hook of the engine process: what an extension may implement, when it is called, and what becomes of a failure.

An extension implements a hook by writing a function of the same name, marked with ``backend.api.hookimpl``, that takes
any of the arguments below by name. Implementations are called one by one in the order of the manifests (``before``,
``after``, then name), in the engine's job thread; the time that each takes is shown in the Extensions tab.

*Registries* are asked once, as the engine starts. They return lists of frozen specs; names are unique over core and all
extensions, and a clash switches the later extension off with an error that names both owners.
*Job hooks* can change a picture: one that raises, or changes torch's global state, fails the job and is named.
*Observers* cannot: one that raises is a warning, and after three failures it is off until the next start.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from PIL import Image

    from backend.adapters.foreign import AdapterFormatSpec
    from backend.control.preprocessing import PreprocessorSpec
    from backend.diffusion.patching import Patch
    from backend.diffusion.samplers.spec import SamplerSpec
    from backend.diffusion.schedules import ScheduleSpec
    from backend.extending import AdapterChoice, Expanded, Foresight, JobView, ModelView, PanelSpec, Runner
    from backend.records.tags import PromptTag, PromptTagSpec
    from backend.request import GenerationRequest

PROJECT = "easel"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def register_samplers() -> Sequence[SamplerSpec]:
    """Samplers beside the core's. Kind: registry.

    A sampler is a pure function on ``denoise(x, sigma)``; one with parameters of its own names their class in
    ``SamplerSpec.parameters`` and gets an instance as the keyword ``parameters``.
    """
    raise NotImplementedError


@hookspec
def register_schedules() -> Sequence[ScheduleSpec]:
    """Schedules beside the core's. Kind: registry.

    A schedule makes ``steps + 1`` falling sigmas, float32, the last 0, for eps, v and flow models alike.
    """
    raise NotImplementedError


@hookspec
def register_panels() -> Sequence[PanelSpec]:
    """What a user can set: one panel in the page for each, drawn from the fields of its parameters. Kind: registry.

    A panel's values stand in a request as ``extensions: {panel: {"version": n, "values": {...}}}``, in the metadata
    of its pictures, in REST's schema and behind ``easel generate --set panel.field=value``. Job hooks are called only
    for jobs whose request names a panel of theirs; a panel that is not sent is off. A panel's ``actions`` are buttons
    that run in the engine process, beside a job and without making one.
    """
    raise NotImplementedError


@hookspec
def register_prompt_tags() -> Sequence[PromptTagSpec]:
    """Tags that prompts may hold, ``<name:value:key=value>``. Kind: registry.

    A tag of a registered name is taken out of every prompt before an encoder reads it, and its file is looked for
    before the job is accepted. What it does is told by the hooks of its extension.
    """
    raise NotImplementedError


@hookspec
def register_adapter_formats() -> Sequence[AdapterFormatSpec]:
    """Kinds of adapter files beside LoRA and its kin. Kind: registry.

    A format looks at the header of a file of models/loras in which Easel finds no tensor that it knows, and says layer
    by layer what is to be added to the weights. Finding the layers, strengths, windows and regions, putting it into the
    weights and out again to the bit are Easel's. Such a file is named like any other: ``<lora:name:0.8>``.
    """
    raise NotImplementedError


@hookspec
def register_preprocessors() -> Sequence[PreprocessorSpec]:
    """What makes hints of pictures, for ControlNets and their kin. Kind: registry.

    A preprocessor is a pure function on a picture and, where the job has one, a mask. Every unit of the controlnet
    extension offers all of them, and its panel shows the parameters of the one that is chosen.
    """
    raise NotImplementedError


@hookspec
def expand_job(job: JobView) -> Sequence[GenerationRequest] | Expanded | None:
    """Turn one order into several (a sweep, all combinations of a prompt), or into one other (words filled in).

    Kind: job. Called once a job, before anything is resolved but after the seeds are drawn, so that what an
    implementation draws can follow from ``job.request.seed``. What it returns is expanded by the extensions after it,
    too, and not again by its own; None, or an empty list, leaves the order as it is. At most 1,000 in all, each of
    which is checked before the first is made. A job that was cut off is expanded again, and pictures of it that were
    saved are not made again: the same request must give the same requests.
    """
    raise NotImplementedError


@hookspec
def adapt_job(job: JobView, tags: Sequence[PromptTag]) -> Sequence[AdapterChoice]:
    """Which adapters (LoRA and its kin) are in the weights of the denoiser and the text encoders for this job.

    Kind: job. Called once a job, before any prompt is encoded, if the request names a panel of the extension or its
    prompts hold tags of it; ``tags`` are those, the positive prompt's first. What is chosen twice in the same way
    counts once. A refiner is not adapted. The weights are the checkpoint's again, to the bit, for the next job that
    asks for none.
    """
    raise NotImplementedError


@hookspec
def scope_adapters(job: JobView, choices: Sequence[AdapterChoice]) -> Sequence[AdapterChoice] | None:
    """Change when and where the adapters of a job act, whoever has chosen them: those that a region's prompt asks for
    in that region, those of the negative prompt in its branch.

    Kind: job. Called once a job, after every ``adapt_job``; ``choices`` are what all of them have returned, ``at`` and
    ``field`` say where each was asked for. What is returned takes their place; None leaves them as they are.
    """
    raise NotImplementedError


@hookspec
def foresee_job(job: JobView) -> Foresight | None:
    """Say what the job will cost through this extension, as far as that is known: for the plan that is shown before it.

    Kind: job. Called once a job, when every field is filled and nothing is loaded yet. It may look at files' headers
    (``job.shapes``), but ``job.own_network`` is for later hooks. None: nothing that is known.
    """
    raise NotImplementedError


@hookspec
def patch_job(job: JobView, model: ModelView) -> Sequence[Patch]:
    """What this job wants changed in the denoise loop and in the network: typed patches, undone when the job ends.

    Kind: job. Called once a job, after the networks are loaded and before the first step; for a job with a refiner
    once for each model. What is returned runs in every step without another call of a hook. A patch that ``model``
    cannot honour, and a second replacement of one point in one scope, fail the job and name the patches.
    """
    raise NotImplementedError


@hookspec
def picture_finished(job: JobView, image: Image.Image, index: int, run: Runner) -> Image.Image | None:
    """Change a picture after it was decoded and put back, before it is saved (a detailer, an upscaler).

    Kind: job. Called once a picture; ``index`` counts from 0 over the whole job. ``run(request, images)`` makes
    pictures with the same engine as a part of this job: its steps show in the progress, and a cancel ends it. None
    leaves the picture as it is.
    """
    raise NotImplementedError


@hookspec
def job_pictures(
    job: JobView, images: Sequence[Image.Image], requests: Sequence[GenerationRequest], sources: Sequence[int]
) -> Sequence[Image.Image] | None:
    """Add pictures made from all those of a job that was expanded (a labelled grid). Kind: job.

    Called at the end of a job, once for each call of ``expand_job`` of the same extension that made several requests;
    ``job`` is as it was there. ``images`` (read from disk one by one) and ``requests`` (resolved) are in the order in
    which they were made; ``sources`` says for each which of the requests that ``expand_job`` returned it comes from,
    counted from 0. What is returned is saved after them, with the request of ``job`` in its metadata.
    """
    raise NotImplementedError


@hookspec
def on_startup(data_folder: Path) -> None:
    """The engine is up; ``data_folder`` is the extension's own folder for what it keeps. Kind: observer. Once."""
    raise NotImplementedError


@hookspec
def on_shutdown(data_folder: Path) -> None:
    """The engine ends in good order; ``data_folder`` as in ``on_startup``. Kind: observer. Once; not after a crash."""
    raise NotImplementedError


@hookspec
def model_loaded(name: str, part: str, data_folder: Path) -> None:
    """A part of a model came into memory. Kind: observer.

    Once for each load, in the job thread: of what an action has loaded it is told when the next job begins.
    ``data_folder`` as in ``on_startup``.
    """
    raise NotImplementedError


@hookspec
def picture_saved(job: JobView, path: Path, parameters: str) -> None:
    """A picture is on disk, whole and named for good. Kind: observer. Once a picture."""
    raise NotImplementedError
