"""Starts the web process, starts it again when it dies, and takes everything down with itself. Standard library only.

The web process learns of our end by its stdin: when that closes it stops, however we ended. It is the head of a
process group of its own, so that an engine it leaves behind can be found and ended too.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from types import FrameType
from typing import IO

NOT_OUR_FAULT = 2  # exit code of the web process for what only the user can mend: starting again would not help
START_AGAIN = 71  # exit code of a web process that could not replace itself: it wants to be started again at once
ENDED_WELL = 70  # exit code of a web process that was told to end: code in an extension may call os._exit(0)
LONG_LIFE = 60.0  # seconds after which a death counts as the first one again
MAX_QUICK_DEATHS = 5
LONGEST_PAUSE = 30.0
STOP_GRACE = 15.0  # seconds that the web process gets to end by itself


class Launcher:
    """Keeps one child process alive until it is told to stop.

    Args:
        command: what to run; its stdin is a pipe that stays open as long as we live.
        again: what to run after a death, if that differs.
        messages: where a sentence about a restart goes.
        first_pause: seconds before the first restart; each further quick death doubles it.
        ended_well: the exit code by which the child says that it ended on purpose.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        again: Sequence[str] | None = None,
        messages: IO[str] | None = None,
        first_pause: float = 0.5,
        ended_well: int = 0,
    ) -> None:
        self._command = list(command)
        self._again = list(again or command)
        self._messages = messages or sys.stderr
        self._first_pause = first_pause
        self._ended_well = ended_well
        self._child: subprocess.Popen[bytes] | None = None
        self._stopping = threading.Event()

    def run(self) -> int:
        """Start and watch until the child ends for good; returns the exit code for our own process."""
        deaths, command = 0, self._command
        while True:
            started = time.monotonic()
            code = self._run_once(command)
            if self._stopping.is_set():
                return 0
            if code == self._ended_well:
                return 0
            if code == NOT_OUR_FAULT:
                return code
            if code == START_AGAIN:
                command = self._again
                continue
            deaths = 1 if time.monotonic() - started > LONG_LIFE else deaths + 1
            if deaths >= MAX_QUICK_DEATHS:
                self._say(f"easel: the web process died {deaths} times in a row ({_cause(code)}); giving up.")
                return 1
            pause = min(self._first_pause * 2 ** (deaths - 1), LONGEST_PAUSE)
            self._say(f"easel: the web process died ({_cause(code)}); starting it again in {pause:g} s.")
            if self._stopping.wait(pause):
                return 0
            command = self._again

    def stop(self) -> None:
        """End the child: at first by closing its stdin, on a second call or after a grace time by force."""
        child = self._child
        if self._stopping.is_set() and child is not None:
            _end_group(child)
            return
        self._stopping.set()
        if child is not None and child.stdin is not None:
            child.stdin.close()
            force = threading.Timer(STOP_GRACE, _end_group, [child])
            force.daemon = True
            force.start()

    def _run_once(self, command: Sequence[str]) -> int:
        self._child = child = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            command, stdin=subprocess.PIPE, start_new_session=os.name == "posix"
        )
        if self._stopping.is_set():  # a signal came between
            _end_group(child)
        code = child.wait()
        _end_group(child)  # an engine that outlived it
        return code

    def _say(self, sentence: str) -> None:
        self._messages.write(sentence + "\n")
        self._messages.flush()


def launch(arguments: Sequence[str]) -> int:
    """Run the web process with these command-line arguments; Ctrl+C, SIGTERM and a closed terminal end it cleanly."""
    command = [sys.executable, "-P", "-m", "webui.server", "--stop-with-stdin", *arguments]
    again = [part for part in command if part != "--autolaunch"]
    launcher = Launcher(command, again=again, ended_well=ENDED_WELL)

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        launcher.stop()

    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), on_signal)
    return launcher.run()


def _end_group(child: subprocess.Popen[bytes]) -> None:
    """Kill what is left of the child and of what it started."""
    try:
        if os.name == "posix":
            os.killpg(child.pid, signal.SIGKILL)  # start_new_session made the child's id that of its group
        else:
            child.kill()
    except (ProcessLookupError, PermissionError):  # nothing left; macOS answers EPERM when only zombies are
        return


def _cause(code: int) -> str:
    """An exit status in words."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"
