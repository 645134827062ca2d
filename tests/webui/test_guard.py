"""Who may ask: Host, Origin and token, on a small application behind the guard."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

import httpx
import pytest

from backend.errors import BadRequest
from backend.settings import Settings
from webui.guard import LOOPBACK, Guard, Policy, machine_names

OWN = "http://127.0.0.1:7860"
SECRET = "correct horse"


async def application(scope, receive, send):
    """Answers everything, echoing Origin as gradio does, and tells what it was given."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
        return
    headers = [(b"content-type", b"text/plain"), (b"access-control-allow-origin", b"*"), (b"x-frame-options", b"ALLOW")]
    names = b",".join(name for name, _ in scope["headers"])
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": names})


def ask(method="GET", path="/", headers=None, policy=None, base=OWN):
    async def go():
        transport = httpx.ASGITransport(Guard(application, policy or Policy()))
        async with httpx.AsyncClient(transport=transport, base_url=base) as client:
            return await client.request(method, path, headers=headers)

    return asyncio.run(go())


@pytest.mark.parametrize(
    "host", ["127.0.0.1:7860", "127.0.0.1", "localhost:7860", "LOCALHOST", "[::1]:7860", "localhost:8000"]
)
def test_own_hosts_are_answered(host):
    assert ask(headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "", "127.0.0.1.evil.example", "localhost.", "127.0.0.1@evil.example", "[::1", "127.0.0.1:x", "a b",
     "evil.example, localhost", "192.168.1.5:7860", "0.0.0.0:7860"],
)  # fmt: skip
def test_foreign_hosts_are_refused_on_any_path(host):
    for path in ("/", "/health", "/static/a.js", "/api/v1/state"):
        answer = ask(path=path, headers={"host": host})
        assert answer.status_code == 400
        assert answer.json()["code"] == "bad_request"


def raw(headers, method="GET", path="/", kind="http", policy=None):
    """Status for headers that no HTTP client sends; for a WebSocket 101 or 403."""
    sent = []

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        sent.append(message)

    scope = {"type": kind, "method": method, "path": path, "raw_path": path.encode(), "query_string": b"",
             "scheme": "http" if kind == "http" else "ws", "headers": headers}  # fmt: skip
    asyncio.run(Guard(application, policy or Policy())(scope, receive, send))
    return {"websocket.accept": 101, "websocket.close": 403}.get(sent[0]["type"]) or sent[0]["status"]


def test_no_host_and_two_hosts_are_refused():
    assert raw([]) == 400
    assert raw([(b"host", b"localhost"), (b"host", b"localhost")]) == 400


def test_a_listening_server_is_reached_by_its_own_names_and_those_allowed():
    settings = Settings(listen=True, token=SECRET, allow_host=("Studio.Example",))
    policy = Policy.of(settings)
    assert policy.hosts >= LOOPBACK | machine_names() | {"studio.example"}
    assert SECRET not in repr(policy)
    assert Policy.of(Settings()).hosts == LOOPBACK
    assert Policy.of(Settings(allow_host=("a.example:80", "[fe80::1]"))).hosts == LOOPBACK | {"a.example", "fe80::1"}
    with pytest.raises(BadRequest, match="no host name"):
        Policy.of(Settings(allow_host=("http://a.example/",)))


UNSAFE = ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


@pytest.mark.parametrize("method", UNSAFE)
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),  # no browser
        ({"origin": OWN}, 200),
        ({"sec-fetch-site": "same-origin"}, 200),
        ({"sec-fetch-site": "none"}, 200),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://127.0.0.1:8000"}, 403),
        ({"origin": "https://127.0.0.1:7860"}, 403),
        ({"origin": "http://localhost:7860"}, 403),  # another name is another origin
        ({"sec-fetch-site": "cross-site", "origin": OWN}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}, 403),
    ],
)
def test_unsafe_methods_pass_only_from_our_own_page_or_no_browser(method, headers, status):
    assert ask(method, headers=headers).status_code == status


def test_an_own_origin_on_the_default_port_counts():
    for host in ("localhost", "localhost:80"):
        assert ask("POST", headers={"host": host, "origin": "http://localhost"}).status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}, 200),  # a link
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe"}, 403),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"}, 403),
        ({"sec-fetch-site": "same-site", "accept": "text/event-stream"}, 403),
        ({"origin": "http://evil.example", "accept": "text/event-stream"}, 403),
    ],
)
def test_a_foreign_page_may_open_easel_in_a_tab_and_nothing_else(headers, status):
    assert ask("GET", headers=headers).status_code == status


def test_websockets_follow_the_same_rules():
    host = (b"host", b"127.0.0.1:7860")
    assert raw([host], kind="websocket") == 101
    assert raw([host, (b"origin", OWN.encode())], kind="websocket") == 101
    assert raw([host, (b"origin", b"http://evil.example")], kind="websocket") == 403
    assert raw([(b"host", b"evil.example")], kind="websocket") == 403
    assert raw([host], kind="websocket", policy=Policy(token=SECRET)) == 403


def test_every_answer_carries_the_security_headers_and_no_cors():
    for answer in (ask(), ask(headers={"host": "evil.example"}), ask(policy=Policy(token=SECRET))):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "frame-ancestors 'self'" in answer.headers["content-security-policy"]
        assert answer.headers["x-frame-options"] == "SAMEORIGIN"
        assert not [name for name in answer.headers if name.startswith("access-control")]


def test_forwarding_headers_do_not_reach_the_application():
    answer = ask(headers={"x-forwarded-host": "evil.example", "x-forwarded-proto": "https", "x-kept": "1"})
    assert "x-kept" in answer.text
    assert "forwarded" not in answer.text


@pytest.mark.parametrize(
    "path",
    ["/gradio_api/proxy=http://evil.example/", "/gradio_api/file=http://evil.example/", "/monitoring", "/login",
     "/gradio_api/vibe-edit", "/gradio_api/run-history/connect", "/gradio_api/dev/reload", "/openapi.json"],
)  # fmt: skip
def test_gradios_routes_that_easel_does_not_use_are_closed(path):
    assert ask(path=path).status_code == 404


class TestToken:
    policy = Policy(token=SECRET, cookie="easel_token_7860")

    def test_without_it_only_health_is_answered(self):
        assert ask(path="/health", policy=self.policy).status_code == 200
        for path in ("/", "/config", "/api/v1/state", "/gradio_api/info", "/health/", "/?token=", "/?token=wrong"):
            answer = ask(path=path, policy=self.policy)
            assert answer.status_code == 401
            assert SECRET not in answer.text

    def test_bearer_opens(self):
        assert ask(headers={"authorization": f"Bearer {SECRET}"}, policy=self.policy).status_code == 200
        assert ask(headers={"authorization": f"bearer {SECRET}"}, policy=self.policy).status_code == 200
        for wrong in ("Bearer", "Bearer x", f"Basic {SECRET}", SECRET, "Bearer \xff\xfe"):
            answer = ask(headers={"authorization": wrong.encode("latin-1")}, policy=self.policy)
            assert answer.status_code == 401

    def test_once_in_the_address_it_becomes_a_cookie_without_the_token_in_it(self):
        answer = ask(path="/?__theme=dark&token=correct+horse", policy=self.policy)
        assert answer.status_code == 303
        assert answer.headers["location"] == "/?__theme=dark"
        cookie = answer.headers["set-cookie"]
        assert cookie.startswith("easel_token_7860=")
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
        assert "horse" not in cookie
        pair = cookie.split(";")[0]
        assert ask(headers={"cookie": f"theme=dark; {pair}"}, policy=self.policy).status_code == 200
        assert ask(headers={"cookie": pair[:-1] + "0"}, policy=Policy(token="other")).status_code == 401

    def test_the_redirect_stays_on_our_own_host(self):
        for path in ("//evil.example/?token=correct%20horse", "/\\evil.example/?token=correct%20horse"):
            location = ask(path="http://127.0.0.1:7860" + path, policy=self.policy).headers["location"]
            assert not urlsplit(location).netloc
            assert not location.startswith(("//", "/\\"))

    def test_the_address_opens_for_reading_only(self):
        assert ask("POST", path="/?token=correct%20horse", policy=self.policy).status_code == 401

    def test_a_browser_is_shown_where_to_put_it(self):
        answer = ask(headers={"accept": "text/html,*/*"}, policy=self.policy)
        assert answer.status_code == 401
        assert "name=token" in answer.text
