"""A resolved request with everything that it refers to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from PIL import Image

from backend.adapters.apply import AdapterUse
from backend.diffusion.branches import Batching
from backend.diffusion.patched import NO_PATCHES, PatchSet
from backend.diffusion.prediction import Prediction
from backend.diffusion.samplers import SAMPLERS
from backend.diffusion.samplers.spec import SamplerSpec
from backend.diffusion.schedules import SCHEDULES, ScheduleSpec
from backend.engine.uses import Use
from backend.families.base import Family
from backend.formats.configs import CheckpointInfo, VaeInfo
from backend.parameters import Parameters
from backend.records.tags import without_tags
from backend.request import GenerationRequest
from backend.text.embeddings import NO_WORDS, EmbeddingWords


def no_patches(_job: Job) -> PatchSet:
    """Of a job without extensions."""
    return NO_PATCHES


@dataclass(frozen=True)
class Job:
    """What the pipeline runs.

    Attributes:
        words: embeddings that the prompts may name.
        patches_for: what extensions change for the job's network; the first call loads that, the others give the same.
        adapters: what is in the weights of its denoiser and its text encoders.
        tags: names of tags that are no part of what encoders read.
        refiner: the same order for the checkpoint that takes over; its prompts, guidance and inputs are its own, its
            VAE is not used.
    """

    request: GenerationRequest
    info: CheckpointInfo
    vae: VaeInfo | None
    family: Family
    prediction: Prediction
    init_image: Image.Image | None
    mask: Image.Image | None
    batching: Batching
    check: Callable[[], None]  # raises Cancelled when the user stopped the job
    on_note: Callable[[str], None]
    words: EmbeddingWords = NO_WORDS
    samplers: Mapping[str, SamplerSpec] = field(default_factory=lambda: SAMPLERS)
    schedules: Mapping[str, ScheduleSpec] = field(default_factory=lambda: SCHEDULES)
    values: Mapping[str, Parameters] = field(default_factory=dict)  # of the panels that the request names
    refiner: Job | None = None
    patches_for: Callable[[Job], PatchSet] = no_patches
    adapters: tuple[AdapterUse, ...] = ()
    tags: frozenset[str] = frozenset()

    @property
    def spoken(self) -> GenerationRequest:
        """The request with its prompts as encoders read them."""
        return without_tags(self.request, self.tags)

    def use(self) -> Use:
        """A part of the job's work that needs models; it ends when the user stops the job."""
        return Use(check=self.check, tell=self.on_note)

    @property
    def sampler(self) -> SamplerSpec:
        """The request's."""
        return self.samplers[str(self.request.sampler)]
