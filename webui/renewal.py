"""The web process started anew in its own place, when the page has to be drawn again; the engine and its job go on.

The process image is replaced (``execv``): process id, launcher, port and engine stay, so that a client which asks
meanwhile waits in the port's queue, and what the engine tells waits in its pipe. A death in between is a death like any
other: the launcher starts everything again, and the job at hand waits for it in the store.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from webui.handover import EngineHandedOver, HandedOver, leave
from webui.launcher import START_AGAIN

if TYPE_CHECKING:
    from backend.settings import Settings
    from webui.studio import Studio

log = logging.getLogger(__name__)

OPTION = "--handed-over"  # of the server's command line
ONCE = {"--autolaunch"}  # what the first start alone is for
LOOK_SECONDS = 0.1


class Ending(Protocol):
    """A server that can be told to end."""

    should_exit: bool


class Renewal:
    """That the page is to be started anew, from the wish to the end of this process image.

    Attributes:
        is_asked: somebody wishes it.
        leaving: set when no request is taken any more; uploads on their way are refused then.
    """

    def __init__(self) -> None:
        self.is_asked = False
        self.leaving = asyncio.Event()
        self._server: Ending | None = None
        self._waiting: asyncio.Task[None] | None = None

    def of(self, server: Ending) -> None:
        """The server that is to end."""
        self._server = server

    def ask(self, is_busy: Callable[[], bool]) -> None:
        """End the server as soon as it is not ``is_busy``; to be called in its event loop. A second time: nothing."""
        if not self.is_asked:
            self.is_asked = True
            self._waiting = asyncio.create_task(self._leave(is_busy))

    async def _leave(self, is_busy: Callable[[], bool]) -> None:
        while is_busy():
            await asyncio.sleep(LOOK_SECONDS)
        self.leaving.set()
        if self._server is not None:
            self._server.should_exit = True


def start_anew(settings: Settings, port: int, engine: EngineHandedOver | None) -> None:
    """Replace this process image by a new one of the same command; does not return.

    Args:
        settings: with which it goes on.
        port: descriptor of the listening socket.
        engine: what goes on, if any does.
    """
    log.info("the page is started anew%s", "" if engine is None else "; the engine goes on")
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    if os.name != "posix":  # no process there can take the place of another: the launcher starts one
        os._exit(START_AGAIN)
    left = leave(HandedOver(port=port, told_settings=settings.model_dump(mode="json"), engine=engine))
    os.execv(sys.executable, [*command_line(sys.orig_argv), OPTION, str(left)])  # noqa: S606 - our own command again


def command_line(arguments: list[str]) -> list[str]:
    """The command as it was given, without what the first start alone was for, and without what a former one left."""
    kept = [each for each in arguments if each not in ONCE]
    return kept[: kept.index(OPTION)] if OPTION in kept else kept


def hand_over(studio: Studio) -> EngineHandedOver | None:
    """Take the engine out of the studio; after that it can be closed. Elsewhere than on posix nothing is handed on."""
    return studio.hand_over() if os.name == "posix" else None
