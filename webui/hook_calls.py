"""Calls of extensions in the web process that cannot take it with them: noted on disk, watched, given up in time."""

from __future__ import annotations

import ctypes
import faulthandler
import itertools
import logging
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NoResult
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backend.approvals import Approvals
from backend.errors import UserError

log = logging.getLogger(__name__)


TURN_SECONDS = 0.5  # that a queue hook waits for those of other extensions to return


@dataclass(frozen=True, kw_only=True)
class Deadlines:
    """Seconds that extensions may take for what; a loaded machine must not look like a hanging extension."""

    start: float = 30.0  # an import, a registry, the drawing of a tab: the page waits for it
    queue: float = 10.0  # a queue hook
    answer: float = 60.0  # until a route's answer must have begun
    close: float = 5.0  # all of them together, when the process ends


class HookTimeout(UserError):
    """A hook that did not return in time; it was given up."""

    code = "extension_timeout"


class Watch:
    """The guard around every call of an extension in this process.

    While a call runs, a file tells whose it is: a process that ends in the middle leaves it behind, and the next one
    starts without that extension. While the process starts (``starting``), a call that does not return ends it.

    Args:
        folder: for the files; nothing else may lie in it.
        log_file: gets the traceback of a call that did not return while starting.
        start_seconds: until that is so.
    """

    def __init__(self, folder: Path, log_file: Path, *, start_seconds: float) -> None:
        self._folder = folder
        self._log_file = log_file
        self._start_seconds = start_seconds
        self._numbers = itertools.count()
        self.starting = False

    def blame(self, approvals: Approvals) -> None:
        """Leave out whatever the former process was calling when it ended."""
        for note in self._notes("*"):
            approvals.note_crash(note.name.partition(".")[0])
            note.unlink(missing_ok=True)

    @contextmanager
    def __call__(self, owner: str, hook: str) -> Iterator[None]:
        """Around one call."""
        note = self.note(owner, hook)
        try:
            with self._ending() if self.starting else nullcontext():
                yield
        finally:
            note.unlink(missing_ok=True)

    def note(self, owner: str, hook: str) -> Path:
        """A file that tells that this is being called; to be removed when it has returned."""
        note = self._folder / f"{owner}.{next(self._numbers)}"
        with suppress(OSError):  # a full disk: the call is made all the same
            self._folder.mkdir(parents=True, exist_ok=True)
            note.write_text(hook, encoding="utf-8")
        return note

    def forget(self, owner: str | None = None) -> None:
        """Calls of ``owner``, or all of them, are not waited for any more."""
        for note in self._notes(f"{owner or ''}*"):
            if owner is None or note.name.partition(".")[0] == owner:
                note.unlink(missing_ok=True)

    def _notes(self, pattern: str) -> list[Path]:
        return sorted(self._folder.glob(pattern)) if self._folder.is_dir() else []

    @contextmanager
    def _ending(self) -> Iterator[None]:
        # faulthandler's thread needs no GIL, so that a call that hangs in C is ended too; the launcher starts us again
        with self._log_file.open("ab") as file:
            faulthandler.dump_traceback_later(self._start_seconds, exit=True, file=file)
            try:
                yield
            finally:
                faulthandler.cancel_dump_traceback_later()


class HookThread:
    """Calls one extension's queue hooks, one after another, and gives up on one that does not return.

    Args:
        on_failure: called with the hook's name and what went wrong, from the thread that calls.
        on_stuck: called when a call was given up.
        turn: shared by all of them: calls of two extensions overlap only if one takes long, so that a death of the
            process is blamed on the one whose call it was.
        seconds: that a call may take.
    """

    def __init__(
        self,
        owner: str,
        on_failure: Callable[[str, BaseException], None],
        on_stuck: Callable[[], None],
        *,
        turn: threading.Lock,
        seconds: float,
    ) -> None:
        self._owner = owner
        self._turn = turn
        self._seconds = seconds
        self._on_failure = on_failure
        self._on_stuck = on_stuck
        self._calls: queue.SimpleQueue[tuple[str, Callable[[], Any], Future[Any] | None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=f"hooks-{owner}", daemon=True)
        self._thread.start()

    def tell(self, hook: str, call: Callable[[], Any]) -> None:
        """Make this call when those before it have returned; nobody waits for it."""
        self._calls.put((hook, call, None))

    def ask(self, hook: str, call: Callable[[], Any]) -> Any:
        """The call's result, after those before it.

        Raises:
            HookTimeout: it did not come in time.
            BaseException: whatever the call raised.
        """
        answer: Future[Any] = Future()
        self._calls.put((hook, call, answer))
        try:
            return answer.result(self._seconds)
        except NoResult:
            answer.cancel()
            raise self._timeout(hook) from None

    def close(self) -> None:
        """End when the calls made so far have returned."""
        self._calls.put(None)

    def join(self, seconds: float) -> None:
        """Wait for its end, but not longer."""
        self._thread.join(seconds)

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            hook, function, answer = call
            if answer is not None and not answer.set_running_or_notify_cancel():
                continue  # nobody waits for it any more
            is_turn = self._turn.acquire(timeout=TURN_SECONDS)
            try:
                result = within(self._seconds, function)
            except NoResult:
                self._on_stuck()
                self._failed(hook, answer, self._timeout(hook))
            except BaseException as error:
                self._failed(hook, answer, error)
            else:
                if answer is not None:
                    answer.set_result(result)
            finally:
                if is_turn:
                    self._turn.release()

    def _failed(self, hook: str, answer: Future[Any] | None, error: BaseException) -> None:
        if answer is not None:
            answer.set_exception(error)
        else:
            self._on_failure(hook, error)

    def _timeout(self, hook: str) -> HookTimeout:
        return HookTimeout(f"The extension {self._owner} did not return from {hook} within {self._seconds:g} s.")


def within(seconds: float, call: Callable[[], Any]) -> Any:
    """What ``call`` returns or raises, from a thread of its own.

    Raises:
        concurrent.futures.TimeoutError: it has not returned in time; its thread was asked to end.
    """
    result: Future[Any] = Future()

    def run() -> None:
        try:
            result.set_result(call())
        except BaseException as error:
            result.set_exception(error)

    thread = threading.Thread(target=run, name="hook", daemon=True)
    thread.start()
    try:
        return result.result(seconds)
    except NoResult:
        if result.done():  # it raised a TimeoutError of its own
            raise RuntimeError("it waited for something in vain (TimeoutError)") from None
        ask_to_end(thread)
        raise


def ask_to_end(thread: threading.Thread) -> None:
    """Raise ``SystemExit`` in a thread, which ends it when it comes back to Python code; one stuck elsewhere stays."""
    if thread.ident is not None:
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(SystemExit))
