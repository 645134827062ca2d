"""What hooks of the web process are given and what they return: records of jobs and pictures, tabs, and the studio."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from backend.errors import BadRequest
from backend.records.images import StoredInput
from backend.records.job_rows import Job, JobImage, JobState
from backend.records.metadata import PictureInfo, read_picture
from backend.request import GenerationRequest

if TYPE_CHECKING:
    import gradio
    from gradio.components import Component

    from webui.studio import Studio

MAX_LISTED = 1000


@dataclass(frozen=True, kw_only=True)
class PictureRecord:
    """A picture of the history.

    Attributes:
        id: what addresses hold; it never stands for another picture.
        index: place in its job, 0 ..
        path: its file, which a person may have moved or deleted since.
        parameters: the A1111-style text stored in it.
        created: seconds since 1970, UTC.
    """

    id: str
    job: str
    index: int
    path: Path
    seed: int
    width: int
    height: int
    parameters: str
    created: float

    @property
    def url(self) -> str:
        """Where the page finds it."""
        return f"/api/v1/images/{self.id}"

    @property
    def thumb(self) -> str:
        """A small WebP of it, at most 384 pixels wide and high."""
        return f"{self.url}?thumb=1"


@dataclass(frozen=True, kw_only=True)
class JobRecord:
    """A job as it stood when it was read.

    Attributes:
        request: with every field filled, as the checkpoint wants it.
        created, started, finished: seconds since 1970, UTC; None: not yet.
        attempts: how often the engine was given it.
        error: why it failed, in a sentence; "" if it did not.
        notes: what the user was told of it.
    """

    id: str
    state: JobState
    request: GenerationRequest
    created: float
    started: float | None
    finished: float | None
    attempts: int
    error: str
    notes: tuple[str, ...]
    pictures: tuple[PictureRecord, ...]


@dataclass(frozen=True)
class Hold:
    """An answer of ``pick_next``: no job is started now. ``reason`` is told in the page beside the extension's name."""

    reason: str


@dataclass(frozen=True)
class TabSpec:
    """A tab in the page.

    Args:
        name: unique; small letters, digits, ``_``; part of the tab's element id ``tab_ext_NAME``.
        label: what stands on it; unique too.
        build: draws it with gradio, once, inside of the tab. Handlers run in worker threads; a ``UserError`` of one is
            shown as its sentence, any other exception with the extension's name.
    """

    name: str
    label: str
    build: Callable[[TabContext], None]

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_]{0,39}", self.name):
            raise BadRequest(f"{self.name!r:.60} is no name for a tab.", "Accepted: small letters, digits and _.")
        if not self.label.strip() or len(self.label) > 40:
            raise BadRequest(f"The tab {self.name} needs a label of 1 to 40 characters.")


class StudioView:
    """What an extension's web side may do with the studio. Every method may be called from any thread.

    Attributes:
        name: of the extension.
    """

    def __init__(self, studio: Studio, name: str) -> None:
        self._studio = studio
        self.name = name

    @property
    def data_folder(self) -> Path:
        """The extension's own folder for what it keeps."""
        folder = self._studio.settings.data_dir / "extension-data" / self.name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @property
    def outputs_folder(self) -> Path:
        """Where pictures are saved, in a folder a day."""
        return self._studio.settings.outputs_dir

    @property
    def registry(self) -> Mapping[str, Any]:
        """What the engine can do: samplers, schedules, panels with their schemas. Not to be changed."""
        return self._studio.registry

    def submit(self, request: GenerationRequest, key: str | None = None) -> JobRecord:
        """Accept a job; it is on disk when this returns. The same ``key`` again gives the first job back.

        Raises:
            UserError: nothing was accepted; says why.
        """
        return job_record(self._studio.submit(request, key))

    def cancel(self, job_id: str) -> JobRecord:
        """Stop a job: at once if it waits, within a step if it runs. Raises ``NotFound``."""
        return job_record(self._studio.cancel(job_id))

    def job(self, job_id: str) -> JobRecord:
        """One job. Raises ``NotFound``."""
        return job_record(self._studio.store.get(job_id))

    def jobs(self, limit: int = 30, *, states: Collection[JobState] = ()) -> Sequence[JobRecord]:
        """Jobs, newest first, at most 1,000; of these states only, if given."""
        return tuple(job_record(job) for job in self._studio.store.list(min(limit, MAX_LISTED), states=states))

    def waiting(self) -> Sequence[JobRecord]:
        """The waiting jobs, the oldest first."""
        return tuple(job_record(job) for job in self._studio.store.waiting())

    def look_at_queue(self) -> None:
        """Ask ``pick_next`` again soon, since its answer may be another one now."""
        self._studio.look_at_queue()

    def picture(self, picture_id: str) -> PictureRecord:
        """One picture of the history whose file is there. Raises ``NotFound``."""
        return picture_record(self._studio.image(picture_id)[0])

    def pictures(self, limit: int = 100, *, before: str | None = None) -> Sequence[PictureRecord]:
        """Pictures of the history, newest first, at most 1,000; those before the picture of that id, if given.

        Raises:
            NotFound: there is no picture of that id.
        """
        images = self._studio.store.pictures(min(limit, MAX_LISTED), before=before)
        return tuple(picture_record(image) for image in images)

    def read_metadata(self, picture: str | Path) -> PictureInfo:
        """What a picture says of its making: one of the history by its id, or a file that lies in the outputs folder.

        Raises:
            NotFound: there is no picture of that id, or its file is gone.
            BadRequest: it is no picture that can be read, or lies elsewhere.
        """
        if isinstance(picture, str):
            path = self._studio.image(picture)[1]
        else:
            path = picture.resolve()
            if not path.is_relative_to(self.outputs_folder.resolve()):
                raise BadRequest(f"{picture.name} does not lie in the outputs folder.")
        return read_picture(path, self._studio.registry, self._studio.files)

    def store_input(self, data: bytes) -> StoredInput:
        """Keep a picture to start from, or a mask; its sha256 is what a request names. Raises ``BadRequest``."""
        return self._studio.store_input(data)


class TabContext:
    """What a tab's ``build`` is given.

    Attributes:
        studio: jobs and pictures.
        tab: the tab itself: ``context.tab.select(refresh, ...)`` is raised when it is opened.
    """

    def __init__(self, studio: StudioView, tab: gradio.Tab) -> None:
        self.studio = studio
        self.tab = tab

    def send_picture(self, button: gradio.Button, to: Literal["img2img", "inpaint"], picture: Component) -> None:
        """Let ``button`` bring a picture, with what it was made from, into a tab of Easel's own.

        Args:
            picture: a component whose value is the picture's id; with an empty one nothing happens.
        Raises:
            BadRequest: there is no such tab.
        """
        if to not in {"img2img", "inpaint"}:
            raise BadRequest(f"There is no tab {to!r} that takes a picture.", "Known: img2img, inpaint.")
        button.click(None, [picture], None, js=f"(id) => easel.sendPictureById('{to}', id)", api_visibility="private")


def job_record(job: Job) -> JobRecord:
    """A job of the store as extensions see it."""
    error = job.error or {}
    return JobRecord(
        id=job.id,
        state=job.state,
        request=job.request,
        created=job.created,
        started=job.started,
        finished=job.finished,
        attempts=job.attempts,
        error=f"{error.get('what') or ''} {error.get('todo') or ''}".strip(),
        notes=job.notes,
        pictures=tuple(picture_record(image) for image in job.images),
    )


def picture_record(image: JobImage) -> PictureRecord:
    """A picture of the store as extensions see it."""
    return PictureRecord(
        id=image.id,
        job=image.job,
        index=image.index,
        path=Path(image.path),
        seed=image.seed,
        width=image.width,
        height=image.height,
        parameters=image.parameters,
        created=image.created,
    )
