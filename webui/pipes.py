"""The engine's pipes and its process id, so that another process image can go on with them: nothing read is lost.

A web process that starts itself anew (``webui.renewal``) keeps its process id, so the engine stays its child; it has
the descriptors of the pipes, and of a line that is cut in two the first half.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from pydantic import Base64Bytes

MAX_LINE = 16 * 2**20  # bytes; a registry or a preview is far smaller
CHUNK = 2**16
ROOM = 2**20  # bytes that a pipe holds, where the system lets us say so: what the engine tells while nobody reads
_CAN_STOP = os.name == "posix"  # elsewhere pipes cannot be polled


@dataclass(frozen=True, kw_only=True)
class EngineHandle:
    """All that another process image needs of a running engine.

    Attributes:
        orders, events, log: descriptors of its stdin, stdout and stderr.
        begun_event, begun_log: what has come of the next line of each.
    """

    pid: int
    orders: int
    events: int
    log: int
    begun_event: Base64Bytes  # it is no text: a character may be cut in two
    begun_log: Base64Bytes


class LineReader:
    """Lines of a pipe, each with its end; a longer one than ``MAX_LINE`` comes in pieces.

    Args:
        begun: what was read of the first line before.
    """

    def __init__(self, descriptor: int, begun: bytes = b"") -> None:
        self._descriptor = descriptor
        self._buffer = bytearray(begun)
        self._wake, self._waker = os.pipe()
        self._lock = threading.Lock()
        self._is_open = True
        self.ended = False

    def __iter__(self) -> Iterator[bytes]:
        """Until the pipe ends, or ``stop``."""
        seen = 0
        while True:
            end = self._buffer.find(b"\n", seen) + 1
            if not end and len(self._buffer) >= MAX_LINE:
                end = len(self._buffer)
            if end:
                line, seen = bytes(self._buffer[:end]), 0
                del self._buffer[:end]
                yield line
                continue
            seen = len(self._buffer)
            if not self._has_more():
                return
            data = os.read(self._descriptor, CHUNK)
            self._buffer += data
            if not data:
                self.ended = True
                if self._buffer:
                    yield bytes(self._buffer)
                return

    def stop(self) -> None:
        """Let the thread that iterates end, without reading on."""
        with self._lock:
            if self._is_open:
                os.write(self._waker, b"x")

    def close(self) -> None:
        """Close the pipe; nobody iterates any more."""
        with self._lock:
            if self._is_open:
                self._is_open = False
                for descriptor in (self._descriptor, self._wake, self._waker):
                    os.close(descriptor)

    @property
    def begun(self) -> bytes:
        """What was read of the next line; to be asked when the iteration has ended."""
        return bytes(self._buffer)

    def _has_more(self) -> bool:
        """Wait for bytes, or the end; False: we were stopped."""
        if not _CAN_STOP:
            return True
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        return all(descriptor != self._wake for descriptor, _ in poll.poll())


class AdoptedChild:
    """A child process that a former image of this process has started."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._code: int | None = None
        self._gone = threading.Event()
        threading.Thread(target=self._wait_for_it, name="engine-end", daemon=True).start()

    def kill(self) -> None:
        """End it at once."""
        if not self._gone.is_set():
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def wait(self, seconds: float | None = None) -> int:
        """Its exit code. Raises ``subprocess.TimeoutExpired``."""
        if not self._gone.wait(seconds):
            raise subprocess.TimeoutExpired(str(self.pid), seconds or 0.0)
        assert self._code is not None  # noqa: S101 - set before
        return self._code

    def _wait_for_it(self) -> None:
        try:
            _, status = os.waitpid(self.pid, 0)
            self._code = os.waitstatus_to_exitcode(status)
        except ChildProcessError:  # somebody else has asked for it
            self._code = 1
        self._gone.set()


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of it. Raises ``OSError`` when nobody reads any more."""
    while data:
        data = data[os.write(descriptor, data) :]


def widen(descriptor: int) -> None:
    """Let a pipe hold more, if the system can."""
    try:
        import fcntl

        fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, ROOM)
    except (ImportError, AttributeError, OSError):  # not Linux, or the user's pipes hold too much already
        return
