"""Gradio answers 500 to whatever it does not understand; behind this, such an answer is the client's 4xx that it is.

Gradio's own JSON bodies are kept, since its script in the browser reads the toast from them; a bare fault becomes our
JSON, and its traceback goes to the log alone.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from webui.answers import json_answer

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger(__name__)

OURS = ("/api/", "/ext/", "/health")  # these do not fail by what a client sends; a 500 of theirs is true


class GradioFaults:
    """ASGI middleware around the routes: no 5xx from gradio's."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one exchange on; a fault of it becomes a 400."""
        if scope["type"] != "http" or scope["path"].startswith(OURS):
            await self._app(scope, receive, send)
            return
        answer = _Answer(send)
        try:
            await self._app(scope, receive, answer.send)
        except Exception:
            log.info("gradio could not answer %s %s", scope["method"], scope["path"][:200], exc_info=True)
            await answer.fail()


class _Answer:
    """One answer on its way out."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._begun = False
        self._replaced = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            if message["status"] >= 500 and not _is_json(message):
                await self.fail()
                return
            self._begun = True
            status = 400 if message["status"] >= 500 else message["status"]
            await self._send({**message, "status": status})
        elif not self._replaced:
            await self._send(message)

    async def fail(self) -> None:
        if self._begun or self._replaced:
            return
        self._replaced = True
        body = {
            "code": "bad_request",
            "what": "The page's server part does not understand this request.",
            "todo": "Reload the page; programs use the routes below /api/v1.",
            "field": None,
        }
        for message in json_answer(400, body):
            await self._send(message)


def _is_json(message: Message) -> bool:
    kinds = [value for name, value in message.get("headers", ()) if name.lower() == b"content-type"]
    return any(b"json" in kind.lower() for kind in kinds)
