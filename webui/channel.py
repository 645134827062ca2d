"""One engine process: orders in and events out as JSON lines, its log passed on, its end told with a cause."""

from __future__ import annotations

import json
import logging
import os
import queue
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from backend.events import Event, event_from_line
from webui.pipes import AdoptedChild, EngineHandle, LineReader, widen, write_all

log = logging.getLogger(__name__)
engine_log = logging.getLogger("easel.engine")

KEPT_LINES = 20  # of the log, for the cause of a death


@dataclass(frozen=True, kw_only=True)
class EngineExit:
    """How an engine process ended."""

    code: int
    last_lines: tuple[str, ...]

    @property
    def words(self) -> str:
        """The cause in a few words: 'exit code 3', 'signal SIGKILL'."""
        if self.code >= 0:
            return f"exit code {self.code}"
        try:
            name = signal.Signals(-self.code).name
        except ValueError:
            name = str(-self.code)
        hints = {"SIGKILL": ", perhaps because memory ran out", "SIGBUS": ", perhaps a model file was cut while in use"}
        return f"signal {name}{hints.get(name, '')}"


OnEvent = Callable[["EngineProcess", Event], None]
OnExit = Callable[["EngineProcess", EngineExit], None]


class EngineProcess:
    """A running engine. ``on_event`` and ``on_exit`` are called from threads of ours; ``on_exit`` once, as the last.

    Args:
        child: the process.
        handle: its pipes.
    """

    def __init__(
        self, child: subprocess.Popen[bytes] | AdoptedChild, handle: EngineHandle, on_event: OnEvent, on_exit: OnExit
    ) -> None:
        self._child = child
        self._handle = handle
        self._on_event = on_event
        self._on_exit = on_exit
        self._orders: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._let_go = False
        self._last_lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._events = LineReader(handle.events, handle.begun_event)
        self._log = LineReader(handle.log, handle.begun_log)
        self._reading_log = self._thread("engine-log", self._read_log)
        self._writing = self._thread("engine-orders", self._write_orders)
        self._reading = self._thread("engine-events", self._read_events)

    @classmethod
    def start(
        cls, command: Sequence[str], environment: Mapping[str, str], *, on_event: OnEvent, on_exit: OnExit
    ) -> EngineProcess:
        """Start one.

        Args:
            command: what to run, for instance ``[sys.executable, "-m", "backend.engine.worker"]``.
            environment: the whole environment of the process.
        Raises:
            OSError: it cannot be started.
        """
        child = subprocess.Popen(  # noqa: S603 - our own interpreter and module, or a test's
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(environment),
        )
        pipes = [os.dup(pipe.fileno()) for pipe in (child.stdin, child.stdout, child.stderr) if pipe is not None]
        for pipe in (child.stdin, child.stdout, child.stderr):
            assert pipe is not None  # noqa: S101 - PIPE was asked for
            pipe.close()  # ours are the copies
        widen(pipes[1])
        handle = EngineHandle(
            pid=child.pid, orders=pipes[0], events=pipes[1], log=pipes[2], begun_event=b"", begun_log=b""
        )
        return cls(child, handle, on_event, on_exit)

    @classmethod
    def adopt(cls, handle: EngineHandle, *, on_event: OnEvent, on_exit: OnExit) -> EngineProcess:
        """Go on with one that a former image of this process has let go."""
        return cls(AdoptedChild(handle.pid), handle, on_event, on_exit)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._handle.pid

    def send_job(self, job_id: str, request: Mapping[str, Any]) -> None:
        """Order a job; returns at once, also when the engine does not read."""
        self._order({"type": "job", "id": job_id, "request": request})

    def cancel(self, job_id: str) -> None:
        """Ask for the end of a job within its present step."""
        self._order({"type": "cancel", "job": job_id})

    def send_action(self, action: str, panel: str, name: str, request: Mapping[str, Any]) -> None:
        """Order an action of a panel, which runs beside a job; returns at once."""
        self._order({"type": "action", "id": action, "panel": panel, "name": name, "request": request})

    def close(self) -> None:
        """Close its stdin: the engine finishes what it does and ends."""
        self._orders.put(None)

    def kill(self) -> None:
        """End it at once."""
        self._child.kill()

    def wait(self, seconds: float) -> bool:
        """Whether it has ended within this time."""
        try:
            self._child.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def let_go(self, seconds: float) -> EngineHandle | None:
        """Write and read no more, and leave it running: every order was taken, every whole line told.

        Returns:
            What ``adopt`` needs; None if it has ended, or does not take its orders.
        """
        self._let_go = True
        self._orders.put(None)
        self._writing.join(seconds)
        if self._writing.is_alive():
            return None
        for reader, thread in ((self._events, self._reading), (self._log, self._reading_log)):
            reader.stop()
            thread.join(seconds)
            if thread.is_alive() or reader.ended:
                return None
        handle = self._handle
        return EngineHandle(
            pid=handle.pid,
            orders=handle.orders,
            events=handle.events,
            log=handle.log,
            begun_event=self._events.begun,
            begun_log=self._log.begun,
        )

    def _order(self, order: Mapping[str, Any]) -> None:
        self._orders.put(json.dumps(order).encode() + b"\n")

    def _thread(self, name: str, target: Callable[[], None]) -> threading.Thread:
        thread = threading.Thread(target=target, name=name, daemon=True)
        thread.start()
        return thread

    def _write_orders(self) -> None:
        # A thread of its own: a pipe holds 64 KiB, and an engine that hangs must not hang its watchdog.
        try:
            while (line := self._orders.get()) is not None:
                write_all(self._handle.orders, line)
        except OSError:  # the engine is gone; on_exit tells
            return
        finally:
            if not self._let_go:
                os.close(self._handle.orders)

    def _read_log(self) -> None:
        for raw in self._log:
            line = raw.decode("utf-8", "replace").rstrip()
            self._last_lines.append(line[:500])
            engine_log.info("%s", line)

    def _read_events(self) -> None:
        for line in self._events:
            try:
                event = event_from_line(line)
            except ValidationError:
                log.error("the engine said something that is no event (%d bytes)", len(line))
                if not line.endswith(b"\n"):  # longer than any event, or cut by its death: nothing to read after it
                    self.kill()
                    break
                continue
            self._on_event(self, event)
        else:
            if not self._events.ended:
                return  # it was let go
        code = self._child.wait()
        self._orders.put(None)
        self._reading_log.join(2)
        self._close_pipes()
        self._on_exit(self, EngineExit(code=code, last_lines=tuple(self._last_lines)))

    def _close_pipes(self) -> None:
        """All but that of the orders, which its thread closes."""
        self._events.close()
        if not self._reading_log.is_alive():  # a grandchild may hold the other end open
            self._log.close()
