"""How much a request may bring, counted as it arrives."""

from __future__ import annotations

import asyncio

import pytest

from webui.limits import MAX_BODY, MAX_JSON, MAX_UPLOAD, Limits

JSON = [(b"content-type", b"application/json; charset=utf-8")]


async def reader(scope, receive, send):
    """Reads the whole body, as an application does, and stumbles over a disconnect."""
    count = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            await send({"type": "http.response.start", "status": 500, "headers": []})
            raise RuntimeError("the client is gone")
        count += len(message["body"])
        if not message["more_body"]:
            break
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(count).encode()})


def send_body(chunks, headers=(), path="/api/v1/jobs", application=reader, slowest=60.0):
    sent, rest = [], list(chunks)

    async def receive():
        if rest[0] is None:
            await asyncio.sleep(3600)
        body = rest.pop(0)
        return {"type": "http.request", "body": body, "more_body": bool(rest)}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": path, "headers": list(headers)}
    asyncio.run(Limits(application, slowest=slowest)(scope, receive, send))
    starts = [message for message in sent if message["type"] == "http.response.start"]
    assert len(starts) == 1
    return starts[0]["status"]


MIB = b"x" * 2**20


@pytest.mark.parametrize(
    ("path", "headers", "limit"),
    [
        ("/api/v1/jobs", JSON, MAX_JSON),
        ("/gradio_api/queue/join", JSON, MAX_JSON),
        ("/api/v1/inputs", (), MAX_UPLOAD),
        ("/api/v1/inputs", JSON, MAX_UPLOAD),
        ("/gradio_api/upload", [(b"content-type", b"multipart/form-data")], MAX_UPLOAD),
        ("/gradio_api/queue/join", (), MAX_BODY),
    ],
)
def test_each_kind_of_body_has_its_limit_chunked_or_announced(path, headers, limit):
    whole, extra = divmod(limit, 2**20)
    fitting = [MIB] * whole + [b"x" * extra]
    assert send_body(fitting, headers, path) == 200
    assert send_body([*fitting, b"x"], headers, path) == 413
    announced = [*headers, (b"content-length", str(limit + 1).encode())]
    assert send_body([b""], announced, path) == 413


def test_what_an_application_says_after_a_refusal_is_not_heard():
    assert send_body([MIB, MIB], JSON) == 413


def test_a_body_that_does_not_come_is_given_up():
    assert send_body([b"x", None], JSON, slowest=0.05) == 408


def test_an_answer_that_has_begun_is_not_followed_by_another():
    async def early(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await receive()
        await receive()

    assert send_body([MIB, MIB], JSON, application=early) == 200


def test_a_fault_of_the_application_is_not_swallowed():
    async def broken(scope, receive, send):
        raise RuntimeError("a fault")

    with pytest.raises(RuntimeError, match="a fault"):
        send_body([b""], application=broken)
