"""Orders of several requests: checked as a whole, progress by work, and pictures that are there are not made again."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from backend.errors import BadRequest, Cancelled
from backend.records.outputs import Outputs
from backend.request import GenerationRequest
from tests.engine.conftest import ask
from tests.engine.test_extensions import make, panel

__all__ = ["make"]

ORDER = """
class Order(Parameters):
    steps: str = text("1,2", label="Steps")
    kept: bool = flag(True, label="Kept")
    reuse: bool = flag(label="Reuse")

@hookimpl
def register_panels():
    return [PanelSpec("order", "Order", Order)]

@hookimpl
def expand_job(job):
    values, plain = job.values["order"], without_panel(job.request, "order")
    made = [replace(plain, steps=int(n)) if n.isdigit() else replace(plain, sampler=n) for n in values.steps.split(",")]
    return Expanded(made, kept=values.kept, reuse=values.reuse)

@hookimpl
def job_pictures(job, images, requests, sources):
    job.note(f"{len(images)} of {[request.steps for request in requests]} from {list(sources)}")
    return [images[-1].transpose(0)]
"""
ALWAYS = """
class Bang(Parameters):
    word: str = text("loud", label="Word")

@hookimpl
def register_panels():
    return [PanelSpec("bang", "Bang", Bang, always=True)]

@hookimpl
def expand_job(job):
    return [replace(job.request, prompt=f"{job.request.prompt} {job.values['bang'].word}")]
"""


def order(checkpoint: str, steps: str = "1,2,3", **values: object) -> GenerationRequest:
    return ask(checkpoint, extensions=panel("order", 1, steps=steps, **values))


def made_steps(engine, request, outputs, **more) -> tuple[list[int], object]:
    told: list[int] = []
    result = engine.generate(
        request, lambda event: told.append(event.steps) if event.type == "step" else None, outputs=outputs, **more
    )
    return told, result


def test_a_request_that_would_be_refused_is_refused_before_the_first_picture(make) -> None:
    engine, told = make(order=ORDER), []
    with pytest.raises(BadRequest, match="Euler"):
        engine.generate(order("tiny-xl", "1,eulr"), told.append)
    assert told == []


def test_progress_goes_by_work_and_ends_at_one(make, checkpoint) -> None:
    engine, shares = make(order=ORDER), []
    engine.generate(order(checkpoint), lambda event: shares.append(event.share) if event.type == "step" else None)
    assert shares == pytest.approx([n / 6 for n in range(1, 7)])


def test_sources_tell_which_request_a_picture_comes_from(make) -> None:
    engine = make(order=ORDER)
    request = ask("tiny-xl", batch_count=2, extensions=panel("order", 1, steps="1,2"))
    assert "4 of [1, 1, 2, 2] from [0, 0, 1, 1]" in engine.generate(request).notes[0]


def test_a_job_that_was_cut_off_goes_on_where_it_was(make, checkpoint, tmp_path) -> None:
    engine, cancel = make(order=ORDER), threading.Event()
    outputs, request = Outputs(tmp_path / "out", registry=engine.registry), order(checkpoint)
    whole = engine.generate(request, outputs=Outputs(tmp_path / "whole", registry=engine.registry), job="abcdef012345")
    with pytest.raises(Cancelled):
        engine.generate(request, lambda event: cancel.set() if event.type == "step" and event.steps == 3 else None,
                        cancel=cancel, outputs=outputs, job="abcdef012345")  # fmt: skip
    assert len(list((tmp_path / "out").rglob("*.png"))) == 2
    steps, result = made_steps(engine, request, outputs, job="abcdef012345")
    assert set(steps) == {3}
    assert "2 of the pictures were there already and were not made again." in result.notes
    names = [picture.path.name for picture in result.pictures]
    assert names == [picture.path.name for picture in whole.pictures]
    for one, other in zip(result.pictures, whole.pictures, strict=True):
        assert np.array_equal(one.image, other.image)


def test_pictures_of_another_job_are_taken_only_on_demand_and_only_of_the_same_request(make, tmp_path) -> None:
    engine = make(order=ORDER)
    outputs = Outputs(tmp_path / "out", registry=engine.registry)
    made_steps(engine, order("tiny-xl"), outputs, job="first000")
    assert set(made_steps(engine, order("tiny-xl"), outputs, job="other000")[0]) == {1, 2, 3}
    assert set(made_steps(engine, order("tiny-xl", "1,2,4", reuse=True), outputs, job="third000")[0]) == {4}
    broken = next(path for path in (tmp_path / "out").rglob("*first000-2.png"))
    for path in (tmp_path / "out").rglob("*-2.png"):
        path.write_bytes(broken.read_bytes()[:2000])
    assert set(made_steps(engine, order("tiny-xl", reuse=True), outputs, job="fourth00")[0]) == {3}


def test_pictures_that_are_not_kept_serve_the_grid_and_leave_no_file(make, tmp_path) -> None:
    engine, cancel = make(order=ORDER), threading.Event()
    outputs, request = Outputs(tmp_path / "out", registry=engine.registry), order("tiny-xl", kept=False)
    with pytest.raises(Cancelled):
        engine.generate(request, lambda event: cancel.set() if event.type == "step" and event.steps == 3 else None,
                        cancel=cancel, outputs=outputs)  # fmt: skip
    steps, result = made_steps(engine, request, outputs)
    assert set(steps) == {3}
    assert len(result.pictures) == 1
    assert [path.parent.parent.name for path in (tmp_path / "out").rglob("*.png")] == ["out"]
    assert not (tmp_path / "out" / ".unkept").exists()


def test_an_always_panel_acts_on_every_job_and_takes_values_where_it_is_named(make) -> None:
    engine = make(bang=ALWAYS)
    assert engine.generate(ask("tiny-xl")).request.prompt == "a fox loud"
    named = ask("tiny-xl", extensions=panel("bang", 1, word="quiet"))
    assert engine.generate(named).request.prompt == "a fox quiet"
