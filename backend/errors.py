"""Errors that a person can act on: a stable code, one sentence of what and where, one of what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar


class UserError(Exception):
    """Something a user can understand and mend; page, REST and CLI show the same text.

    Args:
        what: one sentence: what happened, and where (field, file, step).
        todo: one sentence: what to do about it; may be empty.
        field: the request field at fault, if it is one.
    """

    code: ClassVar[str] = "bad_request"

    def __init__(self, what: str, todo: str = "", *, field: str | None = None) -> None:
        super().__init__(what, todo)
        self.what = what
        self.todo = todo
        self.field = field

    def __str__(self) -> str:
        return f"{self.what} {self.todo}".strip()

    def to_json(self) -> dict[str, str | None]:
        """The body that REST answers with and that a failed job keeps."""
        return {"code": self.code, "what": self.what, "todo": self.todo, "field": self.field}


class BadRequest(UserError):
    """A request that cannot be run as it stands."""


class NotFound(UserError):
    """A model, picture or job that is not there (any more)."""

    code = "not_found"


class ModelUnsupported(UserError):
    """A whole file of a kind that this place does not take."""

    code = "model_unsupported"


class ModelCorrupt(UserError):
    """A model file that is cut, misshapen or incomplete."""

    code = "model_corrupt"


class ModelUnsafe(UserError):
    """A file that could run code or exhaust the machine when read."""

    code = "model_unsafe"


class OutOfMemory(UserError):
    """The device has too little memory for this job."""

    code = "out_of_memory"


class NanDetected(UserError):
    """The picture turned into NaN; nothing was saved."""

    code = "nan_detected"


class WorkerCrashed(UserError):
    """The engine process died while it ran a job."""

    code = "worker_crashed"


class EngineAway(UserError):
    """The engine process does not run at the moment; it is started again by itself."""

    code = "engine_away"


class DiskFull(UserError):
    """A file could not be written."""

    code = "disk_full"


class DataUnusable(UserError):
    """The data folder's job store is broken, newer than this Easel, or held by another one."""

    code = "data_unusable"


class Cancelled(UserError):
    """The user stopped the job; not a fault."""

    code = "cancelled"


class Internal(UserError):
    """A fault of Easel's own; the log has the traceback."""

    code = "internal"


def unknown_name(kind: str, name: str, known: Iterable[str], listed: Iterable[str] | None = None) -> str:
    """One sentence on a name that is not known, with the nearest known one and the list, or its part ``listed``."""
    names = sorted(known)
    shown = names if listed is None else sorted(listed)
    told = ", ".join(shown[:40]) + (", ..." if len(shown) > 40 else "")
    return f"{kind} {name[:80]!r} is not known.{near_name(name, names)} Known: {told or 'none'}."


def near_name(name: str, known: Iterable[str]) -> str:
    """The known name that is nearest, as a question with a space before it; "" where none is near."""
    folded = {each.casefold(): each for each in sorted(known)}
    close = difflib.get_close_matches(name[:200].casefold(), folded, n=1, cutoff=0.5)
    return f" Did you mean {folded[close[0]]!r}?" if close else ""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: in Python, on an accelerator, or on the CPU, where torch has a plain RuntimeError for it.

    torch's own class goes by its name: processes without torch import this module, too.
    """
    is_torchs = any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__)
    return isinstance(error, MemoryError) or is_torchs or "DefaultCPUAllocator" in str(error)
