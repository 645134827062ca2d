"""One engine process: orders in and events out as JSON lines, its log passed on, its end told with a cause."""

from __future__ import annotations

import json
import logging
import queue
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

from pydantic import ValidationError

from backend.events import Event, event_from_line

log = logging.getLogger(__name__)
engine_log = logging.getLogger("easel.engine")

MAX_LINE = 16 * 2**20  # bytes; a registry or a preview is far smaller
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


class EngineProcess:
    """A running engine. ``on_event`` and ``on_exit`` are called from threads of ours; ``on_exit`` once, as the last.

    Args:
        command: what to run, for instance ``[sys.executable, "-m", "backend.engine.worker"]``.
        environment: the whole environment of the process.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        on_event: Callable[[EngineProcess, Event], None],
        on_exit: Callable[[EngineProcess, EngineExit], None],
    ) -> None:
        self._on_event = on_event
        self._on_exit = on_exit
        self._orders: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._last_lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module, or a test's
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(environment),
        )
        assert self._process.stdin and self._process.stdout and self._process.stderr  # noqa: S101 - PIPE was asked for
        stderr = self._thread("engine-log", self._read_log, self._process.stderr)
        self._thread("engine-orders", self._write_orders, self._process.stdin)
        self._thread("engine-events", self._read_events, self._process.stdout, stderr)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

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
        self._process.kill()

    def wait(self, seconds: float) -> bool:
        """Whether it has ended within this time."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def _order(self, order: Mapping[str, Any]) -> None:
        self._orders.put(json.dumps(order).encode() + b"\n")

    def _thread(self, name: str, target: Callable[..., None], *arguments: object) -> threading.Thread:
        thread = threading.Thread(target=target, args=arguments, name=name, daemon=True)
        thread.start()
        return thread

    def _write_orders(self, stdin: IO[bytes]) -> None:
        # A thread of its own: a pipe holds 64 KiB, and an engine that hangs must not hang its watchdog.
        try:
            with stdin:
                while (line := self._orders.get()) is not None:
                    stdin.write(line)
                    stdin.flush()
        except OSError:  # the engine is gone; on_exit tells
            return

    def _read_log(self, stderr: IO[bytes]) -> None:
        for raw in iter(lambda: stderr.readline(MAX_LINE), b""):
            line = raw.decode("utf-8", "replace").rstrip()
            self._last_lines.append(line[:500])
            engine_log.info("%s", line)

    def _read_events(self, stdout: IO[bytes], stderr: threading.Thread) -> None:
        for line in iter(lambda: stdout.readline(MAX_LINE), b""):
            try:
                event = event_from_line(line)
            except ValidationError:
                log.error("the engine said something that is no event (%d bytes)", len(line))
                if not line.endswith(b"\n"):  # longer than any event, or cut by its death: nothing to read after it
                    self.kill()
                    break
                continue
            self._on_event(self, event)
        code = self._process.wait()
        self._orders.put(None)
        stderr.join(2)
        self._on_exit(self, EngineExit(code=code, last_lines=tuple(self._last_lines)))
