"""``easel extension check``: one extension on tiny engines of both families, and a report that a person reads."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from backend.errors import UserError
from backend.importing import LOOSE_PACKAGE
from backend.manifest import read_manifest
from backend.testing.bench import Bench, Values
from backend.testing.declarations import check_import, check_panels, check_preprocessors
from backend.testing.engines import loaded, tiny_engine, write_tiny_models
from backend.testing.findings import Finding, Report
from backend.testing.jobs import check_jobs, check_presence, check_times

HOOK_BUDGET = 1.0  # seconds


class Asked(NamedTuple):
    """What ``Bench`` is told of the jobs to run."""

    values: Values
    prompt: str
    budget: float


CHECKS = (check_import, check_panels, check_preprocessors, check_presence, check_jobs, check_times)


def conformance(
    home: Path,
    *,
    values: Values | None = None,
    prompt: str = "a fox",
    models: Path | None = None,
    budget: float = HOOK_BUDGET,
) -> Report:
    """Everything that every extension promises, tried on the one in the folder ``home``; its code runs here.

    Args:
        values: of its panels, by panel and field, where defaults are not enough (a file, a picture).
        prompt: of its jobs, where it must say something.
        budget: seconds that one call of a hook may take on the tiny models.
        models: a folder of ``write_tiny_models``; None: one is written and removed again.
    """
    home = home.resolve()
    with tempfile.TemporaryDirectory(prefix="easel-check-", ignore_cleanup_errors=True) as scratch:
        data = Path(scratch)
        models = models or write_tiny_models(data / "models")
        return Report(home.name, tuple(_findings(home, data, models, Asked(values or {}, prompt, budget))))


def _findings(home: Path, data: Path, models: Path, asked: Asked) -> Iterator[Finding]:
    try:
        read_manifest(home)
        engine = tiny_engine(data / "with", models, home)
    except UserError as error:
        yield Finding("manifest", "it can be read, and its name is free", "fail", str(error))
        return
    yield Finding("manifest", "it can be read, and its name is free", "pass")
    bench = Bench(home, engine, tiny_engine(data / "without", models), *asked)
    try:
        for check in CHECKS:
            yield from check(bench)
            if loaded(engine.extensions, home).status != "on":
                return
        engine.close()
    finally:
        forget_modules(home.name)


def forget_modules(name: str) -> None:
    """Take a loose extension's modules out of this process, so that it can be imported anew."""
    package = f"{LOOSE_PACKAGE}.{name}"
    for module in [each for each in sys.modules if each == package or each.startswith(f"{package}.")]:
        del sys.modules[module]
