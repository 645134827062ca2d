"""How much a request may bring: bodies are counted as they arrive, chunked ones too, and may not dawdle.

One that is still on its way when the page is started anew is refused, so that nobody waits for its end.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from typing import TYPE_CHECKING

from webui.answers import json_answer

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger(__name__)

MAX_BODY = 64 * 2**20
MAX_JSON = 2**20
MAX_UPLOAD = 32 * 2**20 + 2**16  # 32 MiB of picture and what multipart wraps around it
UPLOADS = ("/api/v1/inputs", "/api/v1/read", "/gradio_api/upload")
ENDLESS = "/gradio_api/heartbeat/"  # gradio's page listens to it as long as it is open
GRACE = 1.0  # seconds that a server which leaves waits for the rest of a body
SLOWEST = 60.0  # seconds until the next piece of a body must have come


class Limits:
    """ASGI middleware: 413 for a body that is too big for its kind, 408 for one that does not come.

    Args:
        leaving: set when the server ends to be started anew: 503 for a body that is not whole.
    """

    def __init__(self, app: ASGIApp, *, slowest: float = SLOWEST, leaving: asyncio.Event | None = None) -> None:
        self._app = app
        self._slowest = slowest
        self._leaving = leaving

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one exchange on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(receive, send, _limit(scope), self._slowest, self._leaving or asyncio.Event())
        exchange.is_endless = scope["path"].startswith(ENDLESS)
        if exchange.is_too_big(_announced(scope)):
            await exchange.refuse(413)
            return
        try:
            await self._app(scope, exchange.receive, exchange.send)
        except Exception:
            if not exchange.refused:
                raise
            log.debug("the application stumbled over a refused body", exc_info=True)


class _Exchange:
    """One request and its answer; after a refusal the application hears of a disconnect and speaks to nobody."""

    def __init__(self, receive: Receive, send: Send, limit: int, slowest: float, leaving: asyncio.Event) -> None:
        self._receive = receive
        self._send = send
        self._limit = limit
        self._slowest = slowest
        self._leaving = leaving
        self._until = math.inf  # when a server that leaves refuses the rest
        self.is_endless = False  # the answer: it is cut when the server leaves
        self._count = 0
        self._body_is_whole = False
        self._answered = False
        self.refused = False

    def is_too_big(self, count: int) -> bool:
        return count > self._limit

    async def receive(self) -> Message:
        if self.refused:
            return {"type": "http.disconnect"}
        if self._body_is_whole and not self.is_endless:
            return await self._receive()
        message = await self._next(None if self._body_is_whole else self._slowest)
        if message is None:
            await self.refuse(503 if self._leaving.is_set() else 408)
            return {"type": "http.disconnect"}
        if message["type"] == "http.request":
            self._count += len(message.get("body", b""))
            self._body_is_whole = not message.get("more_body", False)
            if self.is_too_big(self._count):
                await self.refuse(413)
                return {"type": "http.disconnect"}
        return message

    async def _next(self, seconds: float | None) -> Message | None:
        """What comes next; None: nothing did in time, or before the server leaves."""
        coming, leaving = asyncio.ensure_future(self._receive()), asyncio.ensure_future(self._leaving.wait())
        try:
            await asyncio.wait({coming, leaving}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if leaving.done() and not self.is_endless and not await self._comes_in_time(coming):
                return None
            return coming.result() if coming.done() else None
        finally:
            coming.cancel()
            leaving.cancel()

    async def _comes_in_time(self, coming: asyncio.Future[Message]) -> bool:
        """A server that leaves waits a moment for what is small, or nearly there."""
        left = self._until - time.monotonic()
        if left > GRACE:
            self._until, left = time.monotonic() + GRACE, GRACE
        if left > 0:
            await asyncio.wait({coming}, timeout=left)
        return left > 0 and coming.done()

    async def send(self, message: Message) -> None:
        if not self.refused:
            self._answered = True
            await self._send(message)

    async def refuse(self, status: int) -> None:
        self.refused = True
        if self._answered:
            return
        what, todo = {
            413: (f"The request is bigger than {_size(self._limit)}.", "Send less: a smaller picture, a shorter text."),
            408: (f"The rest of the request did not come within {self._slowest:g} seconds.", "Send it again."),
            503: ("The page is being started again.", "Send it again in a moment."),
        }[status]
        start, body = json_answer(status, {"code": "bad_request", "what": what, "todo": todo, "field": None})
        # What is left of the body is not read: the connection cannot serve another request.
        start["headers"] = [*start["headers"], (b"connection", b"close")]
        await self._send(start)
        await self._send(body)


def _limit(scope: Scope) -> int:
    if scope["path"].rstrip("/").startswith(UPLOADS):
        return MAX_UPLOAD
    kinds = [value for name, value in scope["headers"] if name == b"content-type"]
    return MAX_JSON if any(b"json" in kind.lower() for kind in kinds) else MAX_BODY


def _announced(scope: Scope) -> int:
    values = [value for name, value in scope["headers"] if name == b"content-length"]
    return max((int(value) for value in values if value.isdigit()), default=0)


def _size(count: int) -> str:
    return f"{count // 2**20} MiB"
