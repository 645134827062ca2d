"""Agent Scheduler's core on Easel's web hooks: an own order of the queue, a history, their routes and their tab."""

from __future__ import annotations

import functools
import html
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import gradio as gr
from fastapi import APIRouter, Body, Query

from webui.api import BadRequest, Hold, JobRecord, JobState, StudioView, TabContext, TabSpec, hookimpl

from .history import History
from .order import Order

LOOK_SECONDS = 3.0  # between two looks at the queue while a page is open
SHOWN = 10  # past jobs in the tab
PAST: tuple[JobState, ...] = ("done", "failed", "cancelled")


@functools.cache
def order_of(folder: Path) -> Order:
    """The order that is kept in a data folder, opened once."""
    return Order(folder / "order.sqlite")


@functools.cache
def history_of(folder: Path) -> History:
    """The history that is kept in a data folder, opened once."""
    return History(folder / "history.sqlite")


class Scheduler:
    """What routes and tab do with the queue."""

    def __init__(self, studio: StudioView) -> None:
        self.studio = studio
        self.order = order_of(studio.data_folder)
        self.history = history_of(studio.data_folder)

    def queue(self) -> list[JobRecord]:
        """The waiting jobs in the user's order."""
        jobs = {job.id: job for job in self.studio.waiting()}
        return [jobs[job] for job in self.order.sorted(list(jobs))]

    def pause(self, on: bool) -> None:
        """Start no job any more, or go on."""
        self.order.pause(on)
        self.studio.look_at_queue()

    def move(self, job: str, before: str | None) -> None:
        """To the front, or before another one. Raises ``BadRequest``."""
        ids = [each.id for each in self.studio.waiting()]
        for each in (job, before):
            if each is not None and each not in ids:
                raise BadRequest(f"The job {each[:40]!r} does not wait.", "Only waiting jobs can be moved.")
        if before != job:
            self.order.put_before(job, before, ids)

    def prefer(self, job: str, priority: int) -> None:
        """Give a waiting job another priority. Raises ``BadRequest``."""
        if job not in {each.id for each in self.studio.waiting()}:
            raise BadRequest(f"The job {job[:40]!r} does not wait.", "Only waiting jobs have a priority.")
        self.order.set_priority(job, priority)

    def again(self, job: str) -> JobRecord:
        """Submit the request of a job once more. Raises ``UserError``."""
        return self.studio.submit(self.studio.job(job).request)

    def row(self, job: JobRecord) -> dict[str, Any]:
        """A job for routes and tab."""
        return {
            "id": job.id,
            "state": job.state,
            "priority": self.order.priority(job.id),
            "prompt": job.request.prompt,
            "checkpoint": job.request.checkpoint,
            "tab": job.request.tab,
            "error": job.error,
        }

    def past(self, limit: int) -> list[dict[str, Any]]:
        """Ended jobs, the newest first, and when each was enqueued and started."""
        jobs = self.studio.jobs(limit, states=PAST)
        times = self.history.of([job.id for job in jobs])
        return [self.row(job) | asdict(times[job.id]) | {"waited": times[job.id].waited} for job in jobs]


@hookimpl
def register_routes(studio: StudioView) -> APIRouter:
    """Queue and history, and what can be done with them."""
    router, scheduler = APIRouter(), Scheduler(studio)

    @router.get("/queue")
    def queue() -> dict[str, Any]:
        return {"paused": scheduler.order.paused, "jobs": [scheduler.row(job) for job in scheduler.queue()]}

    @router.get("/history")
    def history(limit: Annotated[int, Query(ge=1, le=500)] = 30) -> dict[str, Any]:
        return {"jobs": scheduler.past(limit)}

    @router.post("/pause")
    def pause() -> dict[str, Any]:
        scheduler.pause(True)
        return queue()

    @router.post("/resume")
    def resume() -> dict[str, Any]:
        scheduler.pause(False)
        return queue()

    @router.post("/jobs/{job}/first")
    def first(job: str) -> dict[str, Any]:
        scheduler.move(job, None)
        return queue()

    @router.post("/jobs/{job}/before/{other}")
    def before(job: str, other: str) -> dict[str, Any]:
        scheduler.move(job, other)
        return queue()

    @router.post("/jobs/{job}/priority")
    def priority(job: str, priority: Annotated[int, Body(embed=True, ge=-10, le=10)]) -> dict[str, Any]:
        scheduler.prefer(job, priority)
        return queue()

    @router.post("/jobs/{job}/again", status_code=202)
    def again(job: str) -> dict[str, Any]:
        return scheduler.row(scheduler.again(job))

    @router.delete("/jobs/{job}")
    def delete(job: str) -> dict[str, Any]:
        return scheduler.row(studio.cancel(job))

    return router


@hookimpl
def register_tabs(studio: StudioView) -> Sequence[TabSpec]:
    """The queue to look at and to change."""
    return [TabSpec("agent_scheduler", "Agent Scheduler", functools.partial(_draw, Scheduler(studio)))]


@hookimpl
def job_enqueued(job: JobRecord, studio: StudioView) -> None:
    """It came, or waits again since the engine ended while it ran."""
    history_of(studio.data_folder).add(job.id, "enqueued", time.time() if job.attempts else job.created)


@hookimpl
def job_started(job: JobRecord, studio: StudioView) -> None:
    """Its turn."""
    history_of(studio.data_folder).add(job.id, "started", job.started or time.time())


@hookimpl
def job_ended(job: JobRecord, studio: StudioView) -> None:
    """Its place is free."""
    order_of(studio.data_folder).forget(job.id)


@hookimpl
def pick_next(jobs: Sequence[JobRecord], studio: StudioView) -> str | Hold | None:
    """The first in the user's order; none while the queue is paused."""
    order = order_of(studio.data_folder)
    return Hold("it is paused.") if order.paused else order.sorted([job.id for job in jobs])[0]


@hookimpl
def on_shutdown(studio: StudioView) -> None:
    """Give the files free."""
    for opened in (order_of, history_of):
        opened(studio.data_folder).close()
        opened.cache_clear()


def _draw(scheduler: Scheduler, context: TabContext) -> None:
    table = gr.HTML(_table(scheduler), elem_id="agent_scheduler_queue")
    job = gr.Dropdown(_choices(scheduler), label="Waiting job", elem_id="agent_scheduler_job")
    with gr.Row():
        small: dict[str, Any] = {"size": "md", "min_width": 130}
        first = gr.Button("Run first", **small)
        higher = gr.Button("Higher priority", **small)
        lower = gr.Button("Lower priority", **small)
        cancel = gr.Button("Cancel", **small)
    pause = gr.Button(_pause_words(scheduler), variant="primary", size="md", elem_id="agent_scheduler_pause")
    past = gr.HTML(_past(scheduler), elem_id="agent_scheduler_history")
    shown = [table, job, pause, past]

    def look(chosen: str | None) -> tuple[str, Any, str, str]:
        choices = _choices(scheduler)
        kept = chosen if chosen in {value for _, value in choices} else None
        return _table(scheduler), gr.update(choices=choices, value=kept), _pause_words(scheduler), _past(scheduler)

    def act(change: Callable[[str], object]) -> Callable[[str | None], tuple[str, Any, str, str]]:
        def handle(chosen: str | None) -> tuple[str, Any, str, str]:
            if not chosen:
                raise BadRequest("No job is chosen.", "Choose a waiting one.")
            change(chosen)
            return look(chosen)

        return handle

    def prefer(step: int) -> Callable[[str], object]:
        return lambda chosen: scheduler.prefer(chosen, scheduler.order.priority(chosen) + step)

    def turn(chosen: str | None) -> tuple[str, Any, str, str]:
        scheduler.pause(not scheduler.order.paused)
        return look(chosen)

    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    first.click(act(lambda chosen: scheduler.move(chosen, None)), job, shown, **quiet)
    higher.click(act(prefer(1)), job, shown, **quiet)
    lower.click(act(prefer(-1)), job, shown, **quiet)
    cancel.click(act(scheduler.studio.cancel), job, shown, **quiet)
    pause.click(turn, job, shown, **quiet)
    context.tab.select(look, job, shown, **quiet)
    gr.Timer(LOOK_SECONDS).tick(look, job, shown, **quiet)


def _choices(scheduler: Scheduler) -> list[tuple[str, str]]:
    return [(f"{job.request.prompt[:60] or '(no prompt)'} · {job.id[:6]}", job.id) for job in scheduler.queue()]


def _pause_words(scheduler: Scheduler) -> str:
    return "Go on" if scheduler.order.paused else "Pause the queue"


def _table(scheduler: Scheduler) -> str:
    running = [scheduler.row(job) for job in scheduler.studio.jobs(1, states=("running",))]
    rows = [*running, *(scheduler.row(job) for job in scheduler.queue())]
    if not rows:
        return "<p>No job waits.</p>"
    lines = ([row["state"], _words(row), str(row["priority"])] for row in rows)
    return _html_table(["State", "Prompt", "Priority"], lines)


def _past(scheduler: Scheduler) -> str:
    rows = scheduler.past(SHOWN)
    lines = (
        [row["state"], _words(row), *(_clock(row[event]) for event in ("enqueued", "started")), _waited(row["waited"])]
        for row in rows
    )
    heads = ["State", "Prompt", "Enqueued", "Started", "Waited"]
    return f"<h4>History</h4>{_html_table(heads, lines)}" if rows else ""


def _words(row: dict[str, Any]) -> str:
    return f"{html.escape(row['prompt'] or '(no prompt)')}<br><small>{html.escape(row['checkpoint'] or '')}</small>"


def _clock(times: Sequence[float]) -> str:
    """The latest, and which attempt it was."""
    told = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(times[-1])) if times else "-"
    return f"{told} ({len(times)}.)" if len(times) > 1 else told


def _waited(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:,.1f} s"


def _html_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """``rows`` are HTML already."""
    head = "".join(f"<th>{each}</th>" for each in heads)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
