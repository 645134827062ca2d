"""Tells of a hook that does not return, so that whoever ends a hanging engine can name the extension."""

from __future__ import annotations

import threading
from collections.abc import Callable

from backend.events import HookRuns
from backend.plugins import Plugins

SLOW_HOOK = 2.0  # seconds that a hook may run before it is told of
LOOKS = 0.25  # seconds between two looks


class HookWatch:
    """A thread that looks at which hook runs; it tells once of a slow one, and once that it has ended."""

    def __init__(self, plugins: Plugins, send: Callable[[HookRuns], None], *, slow: float = SLOW_HOOK) -> None:
        self._plugins = plugins
        self._send = send
        self._slow = slow
        self._told: tuple[str, str, float] | None = None
        self._seen: tuple[tuple[str, str, float], float] | None = (
            None  # what runs, and for how many seconds it was seen
        )

    def start(self) -> None:
        """Watch until the process ends."""
        threading.Thread(target=self._run, name="hook-watch", daemon=True).start()

    def look(self) -> None:
        """Compare what runs now with what ran at the last look."""
        running = self._plugins.running
        if running is None or self._seen is None or self._seen[0] != running:
            self._seen = None if running is None else (running, 0.0)
        else:
            self._seen = (running, self._seen[1] + LOOKS)
        if self._told is not None and self._told != running:
            self._told = None
            self._send(HookRuns())
        if self._seen is not None and self._seen[1] >= self._slow and self._told is None:
            self._told = self._seen[0]
            self._send(HookRuns(owner=self._told[0], hook=self._told[1]))

    def _run(self) -> None:
        pause = threading.Event()
        while not pause.wait(LOOKS):
            self.look()
