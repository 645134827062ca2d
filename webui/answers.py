"""Error answers that all parts of the server give alike: JSON with code, what, todo, field."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from backend.errors import UserError

if TYPE_CHECKING:
    from starlette.types import Message

# Everything a client can bring about is a 4xx; what is not listed is 400.
STATUS = {
    "not_found": 404,
    "model_unsupported": 422,
    "model_corrupt": 422,
    "model_unsafe": 422,
    "out_of_memory": 422,
    "extension_failed": 422,
    "action_hangs": 422,
    "engine_away": 503,
    "engine_silent": 503,
    "disk_full": 507,
    "internal": 500,
}


def status_of(error: UserError) -> int:
    """The HTTP status for an error."""
    return STATUS.get(error.code, 400)


def json_answer(status: int, body: Mapping[str, Any]) -> tuple[Message, Message]:
    """An ASGI answer, whole."""
    data = json.dumps(body).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"cache-control", b"no-store"),
        (b"content-length", str(len(data)).encode()),
    ]
    return (
        {"type": "http.response.start", "status": status, "headers": headers},
        {"type": "http.response.body", "body": data},
    )
