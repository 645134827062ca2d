"""Routes of extensions below /ext/NAME/: each in an event loop of its own, its faults in its own name.

A handler that blocks its loop, or raises, or ends its thread, is felt by nobody else: the exchange stays with our loop,
which passes messages there and back and waits for an answer only so long.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from backend.errors import BadRequest, NotFound, UserError
from backend.plugins import STRIKES, ExtensionFailed
from webui.answers import json_answer, status_of
from webui.hook_calls import HookTimeout, Watch, ask_to_end

if TYPE_CHECKING:
    from fastapi import APIRouter
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger(__name__)

PREFIX = "/ext"
LOOP_SECONDS = 1.0  # until a loop that is not blocked has given a sign
_PASSED_ON = ("type", "asgi", "http_version", "method", "scheme", "path", "raw_path", "query_string", "headers",
              "client", "server")  # fmt: skip

OnExchange = Callable[[str, float, "BaseException | None"], None]


class OwnLoop:
    """An event loop in a thread of its own; one that is blocked is left to itself and replaced."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._loop, self._thread = self._start()
        self.number = 0  # of loops that were replaced

    def run(self, awaitable: Callable[[], Awaitable[None]]) -> tuple[int, asyncio.Future[None]]:
        """Run it there: in which loop, and a future of the loop that is running here."""

        async def call() -> None:
            await awaitable()

        with self._lock:
            return self.number, asyncio.wrap_future(asyncio.run_coroutine_threadsafe(call(), self._loop))

    async def replace_if_blocked(self) -> bool:
        """Whether it gave no sign, so that it had to be replaced."""
        loop, thread, sign = self._loop, self._thread, asyncio.Event()
        here = asyncio.get_running_loop()
        loop.call_soon_threadsafe(lambda: here.call_soon_threadsafe(sign.set))
        try:
            await asyncio.wait_for(sign.wait(), LOOP_SECONDS)
        except TimeoutError:
            with self._lock:
                if self._loop is loop:
                    self._loop, self._thread = self._start()
                    self.number += 1
            loop.call_soon_threadsafe(loop.stop)
            ask_to_end(thread)
            return True
        return False

    def close(self) -> None:
        """Stop it, when it comes to that."""
        self._loop.call_soon_threadsafe(self._loop.stop)

    def _start(self) -> tuple[asyncio.AbstractEventLoop, threading.Thread]:
        loop = asyncio.new_event_loop()

        def run() -> None:
            asyncio.set_event_loop(loop)
            loop.run_forever()

        thread = threading.Thread(target=run, name=f"routes-{self._name}", daemon=True)
        thread.start()
        return loop, thread


class ExtensionRoutes:
    """ASGI application for everything below /ext.

    Args:
        routers: by the extension's name.
        is_on: whether an extension's routes answer (any more).
        on_exchange: told of every exchange: whose, how long it took, and what went wrong if it is the extension's
            fault.
        watch: notes every exchange until its answer begins.
        answer_seconds: until when that must be.
    """

    def __init__(
        self,
        routers: Mapping[str, APIRouter],
        *,
        is_on: Callable[[str], bool],
        watch: Watch,
        on_exchange: OnExchange,
        answer_seconds: float,
    ) -> None:
        self._applications = {name: application(name, router) for name, router in routers.items()}
        self._loops: dict[str, OwnLoop] = {}
        self._blocked: dict[str, int] = {}
        self._is_on = is_on
        self._watch = watch
        self._on_exchange = on_exchange
        self._answer_seconds = answer_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one exchange."""
        if scope["type"] != "http":
            return
        name = scope["path"].removeprefix(PREFIX).strip("/").partition("/")[0]
        if name not in self._applications or not self._is_on(name):
            error = NotFound(f"No extension answers below {PREFIX}/{name[:40]}.", "Is it switched on?")
            await _send_error(send, 404, error)
            return
        if self._blocked.get(name, 0) >= STRIKES:
            error = HookTimeout(f"The routes of {name} are off until the next start: they blocked {STRIKES} times.")
            await _send_error(send, 503, error)
            return
        started = time.perf_counter()
        exchange = _Exchange(receive, send, self._watch.note(name, "register_routes"))
        try:
            fault = await self._run(name, scope, exchange)
        finally:
            exchange.note.unlink(missing_ok=True)
        self._on_exchange(name, time.perf_counter() - started, fault)

    def close(self) -> None:
        """End the loops."""
        for loop in self._loops.values():
            loop.close()

    async def _run(self, name: str, scope: Scope, exchange: _Exchange) -> BaseException | None:
        if name not in self._loops:
            self._loops[name] = OwnLoop(name)
        loop = self._loops[name]
        own_scope = {key: scope[key] for key in _PASSED_ON if key in scope} | {"root_path": f"{PREFIX}/{name}"}
        number, done = loop.run(lambda: exchange.run(self._applications[name], own_scope))
        while not done.done():
            left = exchange.heard + self._answer_seconds - time.monotonic()
            if exchange.begun:  # what streams may take its time, but a loop that was left to itself never ends it
                left = LOOP_SECONDS
                if loop.number != number:
                    what = f"The answer of {name} to {scope['path'][:200]} was cut off: its loop was blocked."
                    return None if exchange.ended else HookTimeout(what)
            elif left <= 0:
                return await self._give_up(name, scope, exchange, done)
            await asyncio.wait({done}, timeout=left)
        if exchange.fault is not None and not exchange.begun:
            await exchange.refuse(500, _failed(name, scope["method"], scope["path"], exchange.fault))
        return exchange.fault

    async def _give_up(self, name: str, scope: Scope, exchange: _Exchange, done: asyncio.Future[None]) -> BaseException:
        what = f"The extension {name} did not answer {scope['method']} {scope['path'][:200]} within "
        error = HookTimeout(f"{what}{self._answer_seconds:g} s.", "Look for a newer version of it.")
        done.cancel()
        if await self._loops[name].replace_if_blocked():  # first, so that the client's next request finds a loop
            self._blocked[name] = self._blocked.get(name, 0) + 1
        await exchange.refuse(504, error)
        return error


class _Exchange:
    """One request and its answer: ``receive`` and ``send`` of our loop, called from another."""

    def __init__(self, receive: Receive, send: Send, note: Path) -> None:
        self.note = note
        self._here = asyncio.get_running_loop()
        self._receive = receive
        self._send = send
        self._refused = False
        self.begun = self.ended = False  # the answer
        self.heard = time.monotonic()  # when the client sent something last
        self.fault: BaseException | None = None

    async def run(self, application: ASGIApp, scope: Scope) -> None:
        """In the extension's loop: let it answer."""
        try:
            await application(scope, self._receive_from_there, self._send_from_there)
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # sys.exit in a handler is a fault like any other
            self.fault = error

    async def refuse(self, status: int, error: UserError) -> None:
        """Answer ourselves; what the extension still sends goes nowhere."""
        self._refused = True
        if not self.begun:
            self.begun = True
            await _send_error(self._send, status, error)

    async def _receive_from_there(self) -> Message:
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._receive_here(), self._here))

    async def _send_from_there(self, message: Message) -> None:
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._send_here(message), self._here))

    async def _receive_here(self) -> Message:
        message = await self._receive()
        self.heard = time.monotonic()
        return message

    async def _send_here(self, message: Message) -> None:
        if not self._refused:
            if not self.begun:
                self.begun = True
                self.note.unlink(missing_ok=True)
            self.ended = message["type"] == "http.response.body" and not message.get("more_body", False)
            await self._send(message)


def application(name: str, router: APIRouter) -> FastAPI:
    """An extension's router as an application whose errors have the shape that all of Easel's have."""

    async def told(_request: Request, error: Exception) -> Response:
        assert isinstance(error, UserError)  # noqa: S101 - registered for it
        return JSONResponse(error.to_json(), status_of(error), headers={"cache-control": "no-store"})

    async def refused(_request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101 - registered for it
        kind = NotFound if error.status_code == 404 else BadRequest
        body = kind(f"{name}: {error.detail}.").to_json()
        return JSONResponse(body, error.status_code, headers=dict(error.headers or {}))

    async def invalid(_request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for it
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"][1:])) or None
        return JSONResponse(BadRequest(f"{field or 'The body'}: {first['msg']}.", field=field).to_json(), 422)

    async def failed(request: Request, error: Exception) -> Response:
        return JSONResponse(_failed(name, request.method, request.url.path, error).to_json(), 500)

    app = FastAPI(title=name, docs_url=None, redoc_url=None, openapi_url=None)
    app.mount("", router)
    for kind, handler in ((UserError, told), (HTTPException, refused), (RequestValidationError, invalid),
                          (Exception, failed)):  # fmt: skip
        app.add_exception_handler(kind, handler)
    return app


def _failed(name: str, method: str, path: str, error: BaseException) -> ExtensionFailed:
    return ExtensionFailed(
        f"The extension {name} failed in {method} {path[:200]}: {type(error).__name__}: {str(error)[:200]}.",
        "Look for a newer version, or switch it off; easel.log has the details.",
    )


async def _send_error(send: Send, status: int, error: UserError) -> None:
    for message in json_answer(status, error.to_json()):
        await send(message)
