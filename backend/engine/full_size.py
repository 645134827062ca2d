"""The benchmark of a model of a published size: its file written, measured in both memory modes, and deleted.

Each mode runs in a process of its own, so that neither finds memory that the other has left.
"""

from __future__ import annotations

import logging
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path

from backend.checkpoints.full_size import write_full_size
from backend.engine.bench import BenchReport, run_bench
from backend.engine.engine import Engine
from backend.errors import OutOfMemory
from backend.formats.full_size import FULL_SIZES
from backend.request import GenerationRequest
from backend.settings import LowMemory, Settings

log = logging.getLogger(__name__)
FOLDER = "full-size"  # in the data folder
MODES: tuple[LowMemory, ...] = ("off", "on")


def bench_full_size(
    name: str, request: GenerationRequest, settings: Settings, *, steps: int, tell: Callable[[str], None]
) -> dict[LowMemory, BenchReport]:
    """Write the model ``name`` of ``FULL_SIZES`` into the data folder, measure it, delete it again whatever happens.

    Args:
        request: its size counts; the checkpoint is the file.
        steps: so many steps are timed in each mode, after one that is not; every other figure is of one run.
        tell: told in a sentence what happens.
    Raises:
        DiskFull: if the disk has too little room.
        OutOfMemory: if the system ended a process.
    """
    folder = settings.data_dir / FOLDER
    path = folder / "checkpoints" / f"{name}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        tell(f"Writing {path} ...")
        size = write_full_size(path, FULL_SIZES[name])
        reports: dict[LowMemory, BenchReport] = {}
        for mode in MODES:
            tell(f"Measuring {size / 2**30:.1f} GiB with low memory {mode} ...")
            here = settings.model_copy(update={"models_dir": folder, "models_from": (), "low_memory": mode})
            reports[mode] = _in_a_process(here, replace(request, checkpoint=name), steps)
        return reports
    finally:
        _delete(path, folder)


def _in_a_process(settings: Settings, request: GenerationRequest, steps: int) -> BenchReport:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(_measure, settings, request, steps).result()
        except BrokenProcessPool:
            raise OutOfMemory(
                "The process that ran the model was ended by the system, most likely for want of memory.",
                "Try a smaller picture.",
            ) from None


def _measure(settings: Settings, request: GenerationRequest, steps: int) -> BenchReport:
    return run_bench(Engine(settings), request, seconds=0, steps=steps, repeats=1)


def _delete(path: Path, folder: Path) -> None:
    path.unlink(missing_ok=True)
    for empty in (path.parent, folder):
        try:
            empty.rmdir()
        except OSError:  # someone keeps something there
            return
