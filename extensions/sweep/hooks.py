"""The sweep's panel, the requests that it stands for, and the grids made of their pictures."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace

from PIL import Image

from backend.api import (
    Axis,
    BadRequest,
    Expanded,
    GenerationRequest,
    JobView,
    PanelSpec,
    Parameters,
    axis,
    cells_of,
    flag,
    hookimpl,
    read_axis,
    without_panel,
)
from extensions.sweep.grid import Label, draw_grid

PANEL = "sweep"
MAX_DRAWN_SEED = 2**32 - 1
_VALUES = 'Values with commas between them; numbers also as 1-10, 1-10 (+3) or 1-10 [4]; "a, b" is one value.'


class Sweep(Parameters):
    """What varies, and what is to be kept."""

    x: str = axis(label="Columns (X)", help=_VALUES)
    y: str = axis(label="Rows (Y)", help=_VALUES)
    z: str = axis(label="Grids (Z)", help=_VALUES)
    grid: bool = flag(True, label="Labelled grids", help="One for each value of Z, and each picture of a batch.")
    singles: bool = flag(True, label="Keep the single pictures")
    reuse: bool = flag(
        True,
        label="Take pictures of earlier runs",
        help="With the same seed, a sweep that was stopped or has other values now makes only what is not there.",
    )


@hookimpl
def register_panels() -> Sequence[PanelSpec]:
    """One panel, in every tab."""
    help_ = "Makes a picture of every combination. Choose a parameter and give its values."
    return [PanelSpec(PANEL, "Sweep (X/Y/Z)", Sweep, help=help_)]


@hookimpl
def expand_job(job: JobView) -> Expanded | None:
    """Every combination as a request; the checkpoint changes least often."""
    values = _values(job)
    axes = _axes(values, job)
    if not axes:
        job.note("no axis is set, so that nothing was varied.")
        return Expanded((without_panel(job.request, PANEL),))
    if not values.grid and not values.singles:
        raise BadRequest(
            "The sweep would keep neither grids nor single pictures.",
            "Switch one of them on.",
            field="extensions",
        )
    cells = _cells(job, list(axes.values()))
    return Expanded([cell for _, cell in cells], kept=values.singles, reuse=values.reuse)


@hookimpl
def job_pictures(job: JobView, images: Sequence[Image.Image], sources: Sequence[int]) -> Sequence[Image.Image]:
    """A grid for each value of Z and each picture that a combination has, a batch's first pictures first."""
    axes = _axes(_values(job), job)
    if not _values(job).grid or not axes:
        return []
    places = [dict(zip(axes, place, strict=True)) for place, _ in _cells(job, list(axes.values()))]
    taken: dict[tuple[int, int, int], list[int]] = {}
    for number, source in enumerate(sources):
        place = places[source]
        taken.setdefault((place.get("z", 0), place.get("y", 0), place.get("x", 0)), []).append(number)
    layers = max(map(len, taken.values()))
    columns, rows = _labels(axes.get("x")), _labels(axes.get("y"))
    made: list[Image.Image] = []
    for z, title in enumerate(_labels(axes.get("z"))):
        for layer in range(layers):
            own = {(y, x): numbers[layer] for (zz, y, x), numbers in taken.items() if zz == z and layer < len(numbers)}
            if own:
                made.append(draw_grid(images, own, columns, rows, title, job.note))
    return made


def _values(job: JobView) -> Sweep:
    values = job.values[PANEL]
    assert isinstance(values, Sweep)  # noqa: S101 - the panel's own class
    return values


def _axes(values: Sweep, job: JobView) -> Mapping[str, Axis]:
    texts = {"x": values.x, "y": values.y, "z": values.z}
    return {name: read_axis(text, job.registry) for name, text in texts.items() if text.strip()}


def _cells(job: JobView, axes: Sequence[Axis]) -> list[tuple[tuple[int, ...], GenerationRequest]]:
    """Cells start from the same noise: a variation seed that is open is drawn from the seed, once."""
    request = without_panel(job.request, PANEL)
    if request.variation_seed == -1:
        drawn = random.Random(f"variation {request.seed}").randint(0, MAX_DRAWN_SEED)  # noqa: S311 - no secret
        request = replace(request, variation_seed=drawn)
    return cells_of(request, axes)


def _labels(axis: Axis | None) -> list[Label]:
    """What stands above a column, or beside a row: the parameter once, its values each."""
    return [Label("", "")] if axis is None else [Label(axis.label, text) for text in axis.texts]
