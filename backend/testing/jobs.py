"""Checks of an extension at work: jobs on tiny engines of both families, with it, without it, and broken off."""

from __future__ import annotations

from collections.abc import Iterator

from backend.diffusion.patching import PatchRefused
from backend.engine.torch_guard import StateChanged
from backend.errors import UserError
from backend.plugins import ExtensionFailed
from backend.records.metadata import read_picture
from backend.records.outputs import Outputs
from backend.request import parse_request
from backend.testing.bench import Bench, Case
from backend.testing.engines import CHECKPOINTS, ask, pixels
from backend.testing.findings import Finding, held

#: Hooks that may run jobs of their own have so many times the budget.
SLOW_HOOKS = {"picture_finished": 20, "job_pictures": 20}


def check_presence(bench: Bench) -> Iterator[Finding]:
    """A job that does not ask for the extension has the bytes of an engine that has none."""
    for checkpoint in CHECKPOINTS:
        request = ask(checkpoint, steps=3)
        same = pixels(bench.engine, request) == bench.plain_bytes(request)
        problem = None if same else "they differ, though the request asks for nothing of it"
        yield held(checkpoint, "a job without it has the bytes of an engine without extensions", problem)


def check_jobs(bench: Bench) -> Iterator[Finding]:
    """Each thing that a job can ask for: it runs where it says so, repeats, is undone, and is in the metadata."""
    cases = list(bench.cases())
    if not cases:
        yield Finding("jobs", "they run", "not applicable", "no job can ask for anything of it")
    for case in cases:
        yield from _run(bench, case) if case.is_declared else _refused(bench, case)


def check_times(bench: Bench) -> Iterator[Finding]:
    """No call of a hook took long, and no observer failed; asked after the jobs."""
    extension = bench.extension
    for hook, seconds in sorted(extension.seconds.items()):
        each = seconds / max(extension.calls.get(hook, 0), 1)
        budget = bench.budget * SLOW_HOOKS.get(hook, 1)
        slow = f"{each:.2f} s a call" if each > budget else None
        yield held(f"hook {hook}", f"less than {budget:g} s a call", slow, f"{each * 1000:.1f} ms a call")
    if extension.failures:
        yield Finding("observers", "none fails", "fail", extension.reason)


def _refused(bench: Bench, case: Case) -> Iterator[Finding]:
    """A family that it is not declared for gets a refusal, never a picture without it."""
    try:
        bench.engine.generate(case.request)
        problem = "the job ran"
    except UserError:
        problem = None
    yield held(str(case), f"refused, as it is declared for {', '.join(case.families)} alone", problem)


def _run(bench: Bench, case: Case) -> Iterator[Finding]:
    try:
        with bench.engine.extensions.guard(bench.name, "a job"):
            first = pixels(bench.engine, case.request)
    except StateChanged as error:
        yield Finding(str(case), "torch's global state is as before", "fail", str(error))
        return
    except (ExtensionFailed, PatchRefused) as error:
        yield Finding(str(case), "it runs", "fail", str(error))
        return
    except UserError as error:
        yield Finding(str(case), "it runs", "not applicable", f"its defaults are refused: {error}")
        return
    except Exception as error:  # whatever an author's code raises within a step
        yield Finding(str(case), "it runs", "fail", f"{type(error).__name__}: {error}")
        return
    plain = bench.plain_bytes(case.base)
    effect = "changes the picture" if first != plain else "the picture is the one without it"
    yield held(str(case), "it runs", None, effect)
    yield Finding(str(case), "torch's global state is as before", "pass")
    yield from _laws(bench, case, first, plain)


def _laws(bench: Bench, case: Case, first: bytes, plain: bytes) -> Iterator[Finding]:
    """The same request again, a job without it after it, the same after a cancel, and from a saved picture."""
    again = None if pixels(bench.engine, case.request) == first else "another picture came of it"
    yield held(str(case), "the same request gives the same bytes", again)
    left = None if pixels(bench.engine, case.base) == plain else "the next job without it has other bytes"
    yield held(str(case), "undo is exact", left)
    bench.broken_off(case.request)
    left = None if pixels(bench.engine, case.base) == plain else "the next job without it has other bytes"
    yield held(str(case), "undo is exact after a cancelled job", left)
    yield held(str(case), "a saved picture's metadata makes it again", _metadata_problem(bench, case, first))


def _metadata_problem(bench: Bench, case: Case, first: bytes) -> str | None:
    """What differs when a saved picture is made again from what it tells of itself; None: nothing."""
    outputs = Outputs(bench.engine.settings.outputs_dir, registry=bench.engine.registry)
    saved = [picture.path for picture in bench.engine.generate(case.request, outputs=outputs).pictures]
    told = [read_picture(path, bench.engine.registry) for path in saved if path is not None]
    if not told or told[0].request is None:
        return "there is no request in it"
    if len(told) > 1:  # an order that became several: each picture tells of the request that it came from
        return None
    request = parse_request(told[0].request)
    for name, values in bench.engine.extensions.values(case.request).items():
        if name not in request.extensions and "expand_job" in bench.extension.hooks:
            continue  # it has turned the order into one without itself
        if bench.engine.extensions.values(request).get(name) != values:
            return f"the panel {name} is {request.extensions.get(name)} there"
    return None if pixels(bench.engine, request) == first else "another picture came of it"
