"""The whole application over real HTTP: each route, gradio's included, against foreign pages, hosts and bad input."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from starlette.routing import Mount

from tests.webui.running import jobs_of, png, running

SECRET = "correct horse battery staple"
UNSAFE = {"POST", "PUT", "PATCH", "DELETE"}


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    with running(tmp_path_factory.mktemp("studio")) as here:
        yield here


@pytest.fixture(scope="module")
def locked(tmp_path_factory):
    with running(tmp_path_factory.mktemp("locked"), token=SECRET) as locked:
        yield locked


def every_route(routes, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Method and path of each route, parameters filled with a word; below mounts and included routers too."""
    for route in routes:
        if isinstance(route, Mount):
            yield from every_route(route.app.routes, prefix + route.path)
        elif hasattr(route, "original_router"):  # what include_router leaves in FastAPI 0.165
            yield from every_route(route.original_router.routes, prefix)
        else:
            path = re.sub(r"\{[^}]*\}", "word", prefix + route.path)
            for method in route.methods or ():
                yield method, path


def test_the_walk_sees_gradios_routes_and_ours(here):
    found = set(every_route(here.routes.routes))
    wanted = {("POST", "/gradio_api/upload"), ("POST", "/gradio_api/queue/join"), ("POST", "/api/v1/jobs"),
              ("GET", "/gradio_api/queue/data"), ("POST", "/api/v1/jobs/word/cancel"), ("GET", "/config")}  # fmt: skip
    assert wanted <= found
    assert len(found) > 80


BODIES = {
    "application/json": b'{"prompt": "a fox"}',
    "text/plain": b'{"prompt": "a fox"}',
    "application/x-www-form-urlencoded": b"prompt=fox",
    "multipart/form-data; boundary=b": b'--b\r\nContent-Disposition: form-data; name="files"; filename="x.png"\r\n\r\n'
    + png()
    + b"\r\n--b--\r\n",
}


def everything_kept(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("easel.sqlite-"))


def test_no_foreign_page_can_change_anything(here):
    here.wait(here.submit(prompt="the engine is up")["id"])
    folder = here.studio.settings.data_dir
    files, jobs = everything_kept(folder), jobs_of(here)
    unsafe = sorted((method, path) for method, path in every_route(here.routes.routes) if method in UNSAFE)
    for method, path in unsafe:
        for origin in ("http://evil.example", "null", "http://127.0.0.1:1234"):
            for kind, body in BODIES.items():
                headers = {"origin": origin, "content-type": kind}
                answer = here.client.request(method, path, content=body, headers=headers)
                assert answer.status_code in {403, 404}, (method, path, origin, kind)  # 404: a closed route
                assert answer.json()["code"] in {"forbidden", "not_found"}
    assert jobs_of(here) == jobs
    assert everything_kept(folder) == files


def test_foreign_hosts_get_nothing_from_any_route(here):
    for method, path in sorted(every_route(here.routes.routes)):
        answer = here.client.request(method, path, headers={"host": "evil.example"})
        assert answer.status_code == 400, (method, path)


def test_two_hosts_are_refused(here):
    with socket.create_connection(("127.0.0.1", here.studio.settings.port), timeout=5) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 400")


def test_without_the_token_every_route_but_health_is_401(locked):
    for method, path in sorted(every_route(locked.routes.routes)):
        answer = locked.client.request(method, path)
        if path == "/health":
            assert answer.status_code == 200
        else:
            assert answer.status_code in {401, 404}, (method, path, answer.status_code)
            assert SECRET not in answer.text
            if answer.status_code == 404 and method != "HEAD":  # closed for everybody
                assert answer.json()["what"] == "There is no such page."


def test_the_token_opens_once_and_then_the_cookie_does(locked, caplog):
    with httpx.Client(base_url=locked.origin, trust_env=False) as browser:
        answer = browser.get("/", params={"token": SECRET})
        assert answer.status_code == 303
        assert browser.get("/api/v1/state").status_code == 200
        assert "gradio" in browser.get("/").text
    bearer = {"authorization": f"Bearer {SECRET}"}
    assert locked.client.get("/api/v1/state", headers=bearer).status_code == 200
    assert SECRET not in caplog.text
    kept = [path for path in everything_kept(locked.studio.settings.data_dir) if path.suffix != ".safetensors"]
    assert not [path for path in kept if SECRET.encode() in path.read_bytes()]


def test_the_page_comes_with_its_policy_and_asks_for_nothing_elsewhere(here):
    page = here.client.get("/")
    assert page.status_code == 200
    policy = page.headers["content-security-policy"]
    assert "frame-ancestors 'self'" in policy
    assert "http" not in policy
    sources = re.findall(r"""(?:src|href)=["'](https?://[^"']*)""", page.text)
    assert not [source for source in sources if not source.startswith(here.origin)]
    assert here.client.get("/config").json()["run_history"] is False if "run_history" in page.text else True


def test_a_gradio_event_works_through_the_guard(here):
    same = {"origin": here.origin, "sec-fetch-site": "same-origin"}
    event = here.client.post("/gradio_api/call/greet", json={"data": ["fox"]}, headers=same).json()["event_id"]
    answer = here.client.get(f"/gradio_api/call/greet/{event}", headers=same)
    assert 'data: ["Hello, fox!"]' in answer.text


def test_an_upload_works_and_a_url_in_its_place_fetches_nothing(here):
    files = {"files": ("x.png", png(), "image/png")}
    path = here.client.post("/gradio_api/upload", files=files).json()[0]

    def size_of(value):
        data = [{"path": value, "meta": {"_type": "gradio.FileData"}}]
        event = here.client.post("/gradio_api/call/size", json={"data": data}).json()["event_id"]
        return here.client.get(f"/gradio_api/call/size/{event}").text

    assert "event: complete" in size_of(path)
    with socket.socket() as canary:
        canary.bind(("127.0.0.1", 0))
        canary.listen()
        canary.settimeout(0.5)
        for host in ("127.0.0.1", "localhost"):
            assert "event: error" in size_of(f"http://{host}:{canary.getsockname()[1]}/x.png")
        with pytest.raises(TimeoutError):
            canary.accept()
    for outside in ("/etc/passwd", str(here.studio.settings.database)):
        assert "event: error" in size_of(outside)


GARBAGE = [
    b"",
    b"{",
    b"[]",
    b"null",
    b"\xff",
    b"[" * 20_000,
    b'{"data": 1}',
    b'{"data": []}',
    b'{"data": ["x"], "fn_index": 99}',
    b'{"data": ["x"], "fn_index": "x", "session_hash": []}',
    b'{"fn_index": 0, "data": [NaN], "session_hash": "s"}',
    b'{"event_data": [[[]]], "data": [{"path": 1}]}',
]


def test_nothing_sent_to_any_route_is_a_5xx(here):
    faults = []
    for method, path in sorted(every_route(here.routes.routes)):
        if method in UNSAFE:
            for body in GARBAGE:
                answer = here.client.request(method, path, content=body, headers={"content-type": "application/json"})
                if answer.status_code >= 500:
                    faults.append((method, path, body[:40], answer.text[:200]))
        elif "queue/data" not in path and "heartbeat" not in path:
            with here.client.stream(method, path) as answer:
                if answer.status_code >= 500:
                    faults.append((method, path))
    assert not faults, "\n".join(map(str, faults))


def test_bad_gradio_calls_by_name_are_no_5xx(here):
    faults = []
    for path in ("run/greet", "api/greet", "call/greet", "call/v2/greet", "queue/join", "run/size", "run/predict"):
        for body in [*GARBAGE, json.dumps({"data": [{"path": "/etc/passwd"}]}).encode()]:
            answer = here.client.post(f"/gradio_api/{path}", content=body, headers={"content-type": "application/json"})
            if answer.status_code >= 500:
                faults.append((path, body[:40], answer.text[:200]))
            assert "Traceback" not in answer.text
    assert not faults, "\n".join(map(str, faults))


@pytest.mark.parametrize(
    "path",
    ["/gradio_api/file=/etc/passwd", "/gradio_api/file=../../easel.sqlite", "/gradio_api/file=%2fetc%2fpasswd",
     "/static/../../etc/passwd", "/assets/..%2f..%2f..%2fetc%2fpasswd", "/svelte/%2e%2e/%2e%2e/etc/passwd",
     "/gradio_api/file=C:\\con", "/gradio_api/file=\x00", "/custom_component/x/y/z/../../etc/passwd",
     "/gradio_api/file=" + "a" * 5000],
)  # fmt: skip
def test_gradio_serves_no_file_of_ours(here, path):
    answer = here.client.get(path.replace("\x00", "%00"))
    assert 400 <= answer.status_code < 500, (answer.status_code, answer.text[:200])
    assert "root:" not in answer.text
    database = here.client.get(f"/gradio_api/file={here.studio.settings.database}")
    assert database.status_code in {403, 404}
