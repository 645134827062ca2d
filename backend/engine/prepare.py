"""From a request to a job: files found by their names, open fields filled, pictures loaded, extensions asked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageOps

from backend.diffusion.patched import PatchSet
from backend.engine.job import Job, no_patches
from backend.engine.job_views import Between
from backend.engine.shares import branches_at_once, with_refiner
from backend.families.table import FAMILIES
from backend.records.resolve import resolve
from backend.records.tags import find_tags
from backend.request import GenerationRequest
from backend.text.embeddings import embedding_words

if TYPE_CHECKING:
    from backend.engine.engine import Engine


def prepare_job(
    engine: Engine,
    request: GenerationRequest,
    *,
    check: Callable[[], None],
    note: Callable[[str], None],
    between: Between,
    patches_for: Callable[[Job], PatchSet],
) -> tuple[Job, tuple[Path, ...]]:
    """A request with everything that it refers to, and the files of its adapters; no weights are loaded.

    Args:
        check: raises ``Cancelled`` when the user stopped the job.
        between: what the hooks of this request tell each other.
        patches_for: asked for the patches of each of the job's networks, if an extension has any.
    Raises:
        NotFound, ModelUnsupported, BadRequest ...: what the request names is not there or does not go together.
        ExtensionFailed: a hook that says which adapters act has failed.
    """
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
    for sentence in resolved.notes:
        note(sentence)
    family = FAMILIES[info.family]
    request = resolved.request
    if mask is not None and image is not None and mask.size != image.size:
        note(f"The mask has another size than the picture and was stretched to {image.width} x {image.height}.")
        mask = mask.resize(image.size, Image.Resampling.BILINEAR)
    if mask is not None and request.invert_mask:
        mask = ImageOps.invert(mask)
    tags = frozenset(engine.extensions.tags)
    choices = engine.extensions.adapters(request, find_tags(request, tags), note, between)
    adapters, files = engine.adapters.uses(choices, info, note)
    if adapters and refiner is not None:
        note(f"LoRAs act on {info.name} alone, not on the refiner.")
    job = Job(
        request=request,
        info=info,
        vae=vae,
        family=family,
        prediction=family.prediction(info, request),
        init_image=image,
        mask=mask,
        batching=engine.batching(request, branches=branches_at_once(info)),
        check=check,
        on_note=note,
        words=embedding_words(engine.catalog.files.folder("embeddings")),
        samplers=engine.extensions.samplers,
        schedules=engine.extensions.schedules,
        values=engine.extensions.values(request),
        patches_for=patches_for if engine.extensions.patching(request) else no_patches,
        adapters=adapters,
        tags=tags,
    )
    return (job if refiner is None else with_refiner(job, refiner)), files
