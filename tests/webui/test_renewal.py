"""The web process started anew in its own place: port, engine and jobs go on, over real processes and HTTP."""

from __future__ import annotations

import concurrent.futures
import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from backend.events import HookRuns
from backend.settings import Settings
from tests.webui.running import running
from tests.webui.test_extension_host import GOOD, write
from tests.webui.test_server import Easel
from webui.handover import EngineHandedOver, HandedOver, leave, take
from webui.pipes import AdoptedChild, EngineHandle, LineReader
from webui.renewal import command_line

posix = pytest.mark.skipif(os.name != "posix", reason="a process image is replaced")
UP = "easel.engine: the fake engine is up"


@pytest.fixture
def easel(tmp_path):
    easel = Easel(tmp_path)
    easel.ready()
    yield easel
    easel.client.close()
    if easel.launcher.poll() is None:
        easel.end()


def restart(easel) -> None:
    answer = easel.client.post("/api/v1/restart", json={})
    assert answer.status_code == 202, answer.text
    assert "jobs go on" in answer.json()["told"]


def engines(easel) -> int:
    """How many were started so far."""
    return (easel.folder / "easel.log").read_text().count(UP)


def row(easel, name: str):
    return next(row for row in easel.client.get("/api/v1/extensions").json()["extensions"] if row["name"] == name)


def heard(easel):
    """What the extension has heard, once it is in the page's process."""
    answer = easel.client.get("/ext/good/heard")
    return answer.json() if answer.status_code == 200 else None


@posix
@pytest.mark.server
def test_an_approved_extension_appears_and_the_running_job_and_the_queue_go_on(easel):
    running, waiting = easel.submit("gate", steps=80), easel.submit("second")
    easel.wait(running, "running")
    web, engine = easel.processes()
    write(easel.folder, {"good": GOOD})
    assert easel.client.post("/api/v1/extensions/good", json={"on": True}).json()["told"].endswith("Restart the page.")
    assert row(easel, "good")["web"]["pending"]
    assert heard(easel) is None
    restart(easel)
    told = easel.until(lambda: heard(easel))
    assert told[0] == ["startup", "good"]
    assert not row(easel, "good")["web"]["pending"]
    job = easel.client.get(f"/api/v1/jobs/{running}").json()
    assert job["state"] == "running"
    assert job["plan"].startswith("80 model calls")  # told before the restart
    assert easel.ready()["engine"]["device"] == "fake"
    assert easel.processes()[0] == web
    assert web.is_running()
    assert engine.is_running()
    (easel.folder / "open").touch()
    assert len(easel.wait(running, "done")["images"]) == 1
    assert len(easel.wait(waiting, "done")["images"]) == 1
    ended = [prompt for what, prompt, *_ in easel.until(lambda: heard(easel)) if what == "ended"]
    assert ended == ["gate", "second"]
    # the engine is started anew after the running job, for the extension's other side: no job was begun twice
    assert engines(easel) == 2
    assert easel.client.get(f"/api/v1/jobs/{running}").json()["notes"] == ["Made by the fake engine."]


@posix
@pytest.mark.server
def test_a_job_can_be_cancelled_after_it_and_the_engine_be_started_anew(easel):
    job = easel.submit("gate", steps=150)
    easel.wait(job, "running")
    (easel.folder / "settings.toml").write_text("port = 'nowhere'")  # what is wrong at the next start is not yet
    restart(easel)
    page = easel.until(lambda: new_page(easel))
    assert page == easel.ready()["page"]
    _, engine = easel.processes()
    easel.client.post(f"/api/v1/jobs/{job}/cancel")
    easel.wait(job, "cancelled")
    assert engines(easel) == 1
    engine.kill()  # an adopted one is watched as any other
    assert len(easel.wait(easel.submit("a fox"), "done")["images"]) == 1
    assert engines(easel) == 2
    code, _, err = easel.end()
    assert (code, "Traceback" in err) == (0, False)


def new_page(easel):
    """The page's identity, once the new image of the process answers."""
    log = (easel.folder / "easel.log").read_text()
    return easel.client.get("/api/v1/state").json()["page"] if "the page is started anew" in log else None


@posix
@pytest.mark.server
def test_an_upload_on_its_way_is_refused_kindly_and_who_asks_meanwhile_waits(easel):
    upload = socket.create_connection(("127.0.0.1", easel.port))
    head = f"POST /api/v1/inputs HTTP/1.1\r\nHost: 127.0.0.1:{easel.port}\r\nContent-Length: 1000000\r\n\r\n"
    upload.sendall(head.encode() + b"x" * 1000)
    easel.client.get("/health")
    restart(easel)
    told = upload.makefile("rb").read()  # the connection is closed behind it
    assert told.startswith(b"HTTP/1.1 503")
    assert b"The page is being started again." in told
    for _ in range(20):  # no moment at which nobody listens
        with socket.create_connection(("127.0.0.1", easel.port), timeout=60) as asking:
            asking.sendall(
                f"GET /health HTTP/1.1\r\nHost: 127.0.0.1:{easel.port}\r\nConnection: close\r\n\r\n".encode()
            )
            assert asking.recv(100).startswith(b"HTTP/1.1 200")
    assert engines(easel) == 1


@posix
@pytest.mark.server
def test_a_kill_in_the_midst_of_it_loses_no_job(easel):
    for seconds in (0.0, 0.5, 1.5):
        jobs = [easel.submit("slow", steps=20), easel.submit("second")]
        easel.wait(jobs[0], "running")
        web, _ = easel.until(lambda: processes(easel))
        threading.Timer(seconds, web.kill).start()
        restart_if_there(easel)
        web.wait(30)
        for job in jobs:
            assert len(easel.wait(job, "done", "failed")["images"]) == 1


def processes(easel):
    try:
        return easel.processes()
    except IndexError:
        return None


def restart_if_there(easel) -> None:
    try:
        easel.client.post("/api/v1/restart", json={})
    except Exception:  # it was killed before it could answer
        return


@pytest.mark.server
def test_without_a_launcher_it_says_what_to_do_instead(tmp_path):
    write(tmp_path, {"good": GOOD})
    with running(tmp_path, extended=True) as here:
        told = here.client.get("/api/v1/extensions").json()["restart"]
        assert not told["possible"]
        answer = here.client.post("/api/v1/restart", json={})
        assert answer.status_code == 400
        assert told["otherwise"] in answer.json()["todo"]
        assert here.client.post("/api/v1/restart", json={"now": True}).status_code == 400
        assert here.client.get("/api/v1/restart").status_code in {404, 405}
        switched = here.client.post("/api/v1/extensions/good", json={"on": False}).json()
        assert switched["told"].endswith(f"{told['otherwise']}.")


def test_lines_that_are_cut_go_on_in_the_next_reader():
    reading, writing = os.pipe()
    first, lines = LineReader(reading), []
    thread = threading.Thread(target=lambda: lines.extend(first))
    thread.start()
    os.write(writing, b"one\ntw")
    while lines != [b"one\n"]:
        time.sleep(0.01)
    first.stop()
    thread.join()
    assert (first.begun, first.ended) == (b"tw", False)
    os.write(writing, b"o\nthr")
    second = LineReader(reading, first.begun)
    os.close(writing)
    assert list(second) == [b"two\n", b"thr"]
    assert second.ended
    second.close()
    second.stop()  # nobody is there any more


def test_what_is_left_is_what_is_taken_and_no_child_inherits_it():
    descriptors = [os.open(os.devnull, os.O_RDONLY) for _ in range(4)]
    handle = EngineHandle(
        pid=7, orders=descriptors[0], events=descriptors[1], log=descriptors[2], begun_event=b'{"a', begun_log=b"\xff"
    )
    engine = EngineHandedOver(
        handle=handle,
        is_ready=True,
        job="j",
        slowest=1.5,
        hook=HookRuns(owner="a", hook="patch_job"),
        renew=True,
        live={"plans": {}},
    )
    settings = Settings(data_dir=Path("/a b"), token="a secret", allow_host=["easel.local"], listen=True)
    handed = HandedOver(port=descriptors[3], told_settings=settings.model_dump(mode="json"), engine=engine)
    left = leave(handed)
    assert os.get_inheritable(left)
    assert all(os.get_inheritable(each) for each in descriptors)
    assert take(left) == handed
    assert handed.settings.model_dump() == settings.model_dump()
    assert not any(os.get_inheritable(each) for each in descriptors)
    for each in descriptors:
        os.close(each)


@posix
def test_an_adopted_child_is_waited_for_and_can_be_ended():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    adopted = AdoptedChild(child.pid)
    with pytest.raises(subprocess.TimeoutExpired):
        adopted.wait(0.05)
    adopted.kill()
    assert adopted.wait(30) == -9
    adopted.kill()  # not whoever has its number by now
    child.stdin.close()
    child.wait()


def test_the_command_is_that_of_the_start_without_what_was_for_it_alone():
    start = ["python", "-P", "-m", "webui.server", "--stop-with-stdin", "--autolaunch", "--port", "7860"]
    kept = ["python", "-P", "-m", "webui.server", "--stop-with-stdin", "--port", "7860"]
    assert command_line(start) == kept
    assert command_line([*kept, "--handed-over", "9"]) == kept
    assert json.loads(json.dumps(kept)) == kept


@posix
@pytest.mark.server
def test_two_who_ask_at_once_an_engine_that_dies_meanwhile_and_a_route_that_never_ends(easel):
    write(easel.folder, {"endless": ENDLESS})
    easel.client.post("/api/v1/extensions/endless", json={"on": True})
    restart(easel)
    easel.until(lambda: easel.client.get("/ext/endless/count").json().get("count"))
    job = easel.submit("slow", steps=40)
    easel.wait(job, "running")
    listening = socket.create_connection(("127.0.0.1", easel.port))
    listening.sendall(f"GET /ext/endless/stream HTTP/1.1\r\nHost: 127.0.0.1:{easel.port}\r\n\r\n".encode())
    assert listening.recv(1000).startswith(b"HTTP/1.1 200")
    _, engine = easel.processes()
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(easel.client.post, "/api/v1/restart", json={}) for _ in range(4)]
        engine.kill()
        for each in asking:
            assert each.result().status_code == 202
    assert len(easel.wait(job, "done")["images"]) == 1
    assert easel.until(lambda: easel.client.get("/ext/endless/count").json().get("count")) == 1  # a new image of it
    listening.close()
    assert easel.end()[0] == 0


@posix
@pytest.mark.server
def test_an_engine_that_has_just_been_started_goes_on_starting(easel):
    _, engine = easel.processes()
    engine.kill()
    easel.until(lambda: None if easel.client.get("/api/v1/state").json()["engine"]["state"] == "ready" else True)
    easel.until(lambda: processes(easel))
    restart(easel)
    assert len(easel.wait(easel.until(lambda: easel.submit("a fox")), "done")["images"]) == 1
    assert engines(easel) == 2


@posix
@pytest.mark.server
def test_a_launcher_that_is_killed_meanwhile_leaves_nobody(easel):
    job = easel.submit("slow", steps=100)
    easel.wait(job, "running")
    web, engine = easel.processes()
    restart(easel)
    easel.launcher.kill()
    _, alive = psutil.wait_procs([web, engine], timeout=60)
    assert not alive


ENDLESS = """
calls = []

@hookimpl
def register_routes():
    router = APIRouter()

    @router.get("/count")
    def count():
        calls.append(1)
        return {"count": len(calls)}

    @router.get("/stream")
    async def stream():
        async def endless():
            while True:
                yield b"x"
                await asyncio.sleep(0.1)
        return StreamingResponse(endless())

    return router
"""
