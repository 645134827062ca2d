"""What the engine tells while it works: small frozen records that travel as JSON lines."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter
from pydantic.dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a job is going to do, told before its first step."""

    loads: tuple[str, ...] = ()  # parts that come into memory: "demo-xl: U-Net (22 MiB)"
    leaves: tuple[str, ...] = ()  # parts that leave for them
    needs_bytes: int = 0  # peak memory expected: weights and activations
    budget_bytes: int = 0
    model_calls: int = 0
    seconds: float | None = None  # measured rate of this machine x model calls; None: never measured
    device: str = "cpu"
    dtype: str = "float32"
    guidance: str = "batched"


@dataclass(frozen=True, kw_only=True)
class Planned:
    """The plan of the job, before it runs."""

    plan: Plan
    job: str = ""
    type: Literal["planned"] = "planned"


@dataclass(frozen=True, kw_only=True)
class Step:
    """One sampler step is done. ``preview`` is a small JPEG, base64, when one was due."""

    step: int  # 1 .. steps, within the batch
    steps: int
    batch: int  # 0 ..
    batches: int
    share: float | None = None  # of the whole job's work that is done, 0 .. 1; its batches may differ in it
    seconds_left: float | None = None  # of the whole job
    preview: str | None = None
    job: str = ""
    type: Literal["step"] = "step"


@dataclass(frozen=True, kw_only=True)
class ImageSaved:
    """One picture is on disk, whole and named for good."""

    index: int  # 0 .. batch_size * batch_count - 1
    path: str
    seed: int
    width: int
    height: int
    parameters: str  # the A1111-style text stored in the file
    job: str = ""
    type: Literal["image"] = "image"


@dataclass(frozen=True, kw_only=True)
class Note:
    """Something the user should know: a rounded size, a VAE retry, a word without effect."""

    text: str
    job: str = ""
    type: Literal["note"] = "note"


@dataclass(frozen=True, kw_only=True)
class Done:
    """The job is finished; every picture was saved."""

    seconds: float
    job: str = ""
    type: Literal["done"] = "done"


@dataclass(frozen=True, kw_only=True)
class Failed:
    """The job ended without (all) its pictures; ``code`` is ``cancelled`` when the user stopped it."""

    code: str
    what: str
    todo: str = ""
    field: str | None = None
    job: str = ""
    type: Literal["failed"] = "failed"


@dataclass(frozen=True, kw_only=True)
class Ready:
    """The engine is up; ``registry`` is what it can do, ``device`` in words."""

    registry: dict[str, Any]
    device: str
    dtype: str
    type: Literal["ready"] = "ready"


@dataclass(frozen=True, kw_only=True)
class Residents:
    """Which parts are in memory now (told after each change)."""

    parts: tuple[str, ...]
    bytes: int
    type: Literal["residents"] = "residents"


@dataclass(frozen=True, kw_only=True)
class HookRuns:
    """An extension's hook is called; without an owner: it has returned. So it is known in whose code a process ends.

    Attributes:
        observes: it cannot change a picture.
    """

    owner: str = ""
    hook: str = ""
    observes: bool = False
    type: Literal["hook_runs"] = "hook_runs"


@dataclass(frozen=True, kw_only=True)
class ExtensionsFare:
    """How the extensions fare, told after each job: the registry document's rows with fresh figures."""

    extensions: tuple[dict[str, Any], ...]
    type: Literal["extensions"] = "extensions"


@dataclass(frozen=True, kw_only=True)
class ActionDone:
    """An action of a panel has ended well: what it gave, checked."""

    action: str  # the id that it was ordered by
    text: str = ""
    picture: str | None = None  # sha256 of a stored input
    values: dict[str, Any] = Field(default_factory=dict)  # of the panel
    fields: dict[str, Any] = Field(default_factory=dict)  # of the request
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    type: Literal["action_done"] = "action_done"


@dataclass(frozen=True, kw_only=True)
class ActionFailed:
    """An action of a panel gave nothing, and why."""

    action: str
    code: str
    what: str
    todo: str = ""
    field: str | None = None
    type: Literal["action_failed"] = "action_failed"


JobEvent = Planned | Step | ImageSaved | Note | Done | Failed
ActionEvent = ActionDone | ActionFailed
Event = Annotated[JobEvent | Ready | Residents | HookRuns | ExtensionsFare | ActionEvent, Field(discriminator="type")]
_ADAPTER: TypeAdapter[Event] = TypeAdapter(Event)


def event_to_line(event: Event) -> bytes:
    """One JSON line, newline included."""
    return _ADAPTER.dump_json(event) + b"\n"


def event_from_line(line: bytes) -> Event:
    """The event that a line holds; raises pydantic's ValidationError on anything else."""
    return _ADAPTER.validate_json(line)
