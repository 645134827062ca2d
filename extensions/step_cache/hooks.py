"""The panel, its patches, and what is told beside the picture."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from backend.api import JobView, ModelView, PanelSpec, Patch, Runner, check_window, hookimpl
from extensions.step_cache.cut import cut_network
from extensions.step_cache.measure import PANEL, Capture, compared, exact_run
from extensions.step_cache.reuse import DeepFeatures, StepCacheParameters
from extensions.step_cache.tally import Tally


@hookimpl
def register_panels() -> Sequence[PanelSpec]:
    """One panel, for every family."""
    return [
        PanelSpec(
            PANEL,
            "Step cache",
            StepCacheParameters,
            help="Keeps what the network's deep blocks made for some steps: half the work, nearly the same picture.",
        )
    ]


@hookimpl
def patch_job(job: JobView, model: ModelView) -> Sequence[Patch]:
    """Reuse for one of the job's networks; a refiner keeps its own features and counts with the others."""
    values = job.values.get(PANEL)
    if not isinstance(values, StepCacheParameters):
        return []
    check_window("Step cache", values.start, values.end)
    if not values.reuses:
        exact = exact_run()
        return exact.timed() if exact is not None else []
    capture = job.memory.setdefault("capture", Capture(Tally()))
    patches = DeepFeatures(values, cut_network(model, values.kept), capture.tally).patches()
    return [*patches, *capture.patches()] if values.measure else patches


@hookimpl
def picture_finished(job: JobView, image: Image.Image, index: int, run: Runner) -> None:
    """Tell what was saved, and once a request, if that is wished, what it cost in exactness."""
    del index
    capture = job.memory.get("capture")
    if not isinstance(capture, Capture):
        return
    skipped = capture.tally.skipped
    job.fact(f"{skipped:.1%} of the operations skipped")
    job.note(f"{skipped:.0%} of the network's operations were skipped: {1 / (1 - skipped):.2f} times fewer.")
    values = job.values[PANEL]
    if isinstance(values, StepCacheParameters) and values.measure and "measured" not in job.memory:
        job.memory["measured"] = True
        job.note(compared(job.request, image, capture, run))
