"""Extensions in the web process that raise, hang, exit or lie: the page and the others go on, and the list says why."""

from __future__ import annotations

import time

import pytest

from backend.approvals import Approvals
from backend.request import GenerationRequest
from tests.extending import approve_all, forget_loose_extensions, write_extension
from tests.webui.running import FAKE_ENGINE, running, settings_for
from webui.extension_host import ExtensionHost
from webui.hook_calls import Deadlines
from webui.studio import Studio

HEAD = """
import asyncio, os, sys, threading, time
import gradio as gr
from fastapi import APIRouter
from fastapi.responses import StreamingResponse
from webui.api import *

"""
GOOD = """
heard = []

@hookimpl
def on_startup(studio):
    heard.append(("startup", studio.name))

@hookimpl
def job_enqueued(job):
    heard.append(("enqueued", job.request.prompt, job.state))

@hookimpl
def job_started(job):
    heard.append(("started", job.request.prompt, job.state))

@hookimpl
def job_ended(job):
    heard.append(("ended", job.request.prompt, job.state))

@hookimpl
def picture_saved(picture, studio):
    heard.append(("picture", studio.job(picture.job).request.prompt, studio.read_metadata(picture.id).source))

@hookimpl
def register_routes(studio):
    router = APIRouter()

    @router.get("/heard")
    def told():
        return heard

    return router

@hookimpl
def register_tabs():
    return [TabSpec("good", "Good", lambda context: gr.Markdown("all is well", elem_id="all_is_well"))]
"""
AT_IMPORT = {
    "raises": ("raise ValueError('no')", "ValueError: no"),
    "exits": ("sys.exit(3)", "SystemExit: 3"),
    "lacks": ("import not_there_at_all", "It needs the Python module not_there_at_all"),
    "invents": ("@hookimpl\ndef register_tab(): ...", "register_tab is no hook"),
    "misfits": ("@hookimpl\ndef job_ended(picture): ...", "does not fit"),
}
REGISTRIES = {
    "tabs_raise": ("@hookimpl\ndef register_tabs():\n    1 / 0", "ZeroDivisionError"),
    "tabs_exit": ("@hookimpl\ndef register_tabs():\n    sys.exit()", "SystemExit"),
    "tabs_lie": ("@hookimpl\ndef register_tabs():\n    return ['tab']", "a str instead of a TabSpec"),
    "tabs_misname": ("@hookimpl\ndef register_tabs():\n    return [TabSpec('A b', 'A', print)]", "no name for a tab"),
    "tabs_core": ("@hookimpl\ndef register_tabs():\n    return [TabSpec('x', 'img2img', print)]", "Easel's core"),
    "tabs_zclash": ("@hookimpl\ndef register_tabs():\n    return [TabSpec('good', 'Other', print)]", "that good has"),
    "routes_raise": ("@hookimpl\ndef register_routes():\n    1 / 0", "ZeroDivisionError"),
    "routes_exit": ("@hookimpl\ndef register_routes():\n    sys.exit()", "SystemExit"),
    "routes_lie": ("@hookimpl\ndef register_routes():\n    return 7", "a int instead of an APIRouter"),
}
QUEUE = {
    "queue_raises": "@hookimpl\ndef job_started(job):\n    raise ValueError('never')",
    "queue_exits": "@hookimpl\ndef job_enqueued(job):\n    sys.exit(1)",
    "queue_hangs": "@hookimpl\ndef job_ended(job):\n    time.sleep(3600)",
    "queue_spins": "@hookimpl\ndef picture_saved(picture):\n    while True: pass",
    "pick_raises": "@hookimpl\ndef pick_next(jobs):\n    raise ValueError('never')",
    "pick_lies": "@hookimpl\ndef pick_next(jobs):\n    return 'no job of yours'",
    "pick_list": "@hookimpl\ndef pick_next(jobs):\n    return [jobs[0].id]",
    "pick_hangs": "@hookimpl\ndef pick_next(jobs):\n    time.sleep(3600)",
    "pick_exits": "@hookimpl\ndef pick_next(jobs):\n    sys.exit(1)",
}
ROUTES = """
@hookimpl
def register_routes(studio):
    router = APIRouter()

    @router.get("/raises")
    def raises():
        raise ValueError("never <b>")

    @router.get("/user")
    def user():
        raise NotFound("It is not here.", "Look elsewhere.")

    @router.get("/exits")
    def exits():
        sys.exit(1)

    @router.get("/exits_loop")
    async def exits_loop():
        sys.exit(1)

    @router.get("/sleeps")
    def sleeps():
        time.sleep(30)

    @router.get("/blocks")
    async def blocks():
        time.sleep(3600)

    @router.get("/streams")
    async def streams():
        async def parts():
            for number in range(8):
                yield f"{number} "
                await asyncio.sleep(0.25)
        return StreamingResponse(parts())

    @router.post("/body")
    async def body(number: int):
        return number

    @router.get("/api/v1/state")
    def state():
        return "mine"

    return router
"""
QUICK = Deadlines(queue=0.5, answer=1.0)


def write(folder, sides):
    for name, code in sides.items():
        write_extension(folder / "extensions", name, HEAD + code, side="web")
    approve_all(folder / "extensions", Approvals(folder / "extensions.json"))


@pytest.fixture(autouse=True)
def forget_modules():
    yield
    forget_loose_extensions()


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    faults = {name: code for name, (code, _) in (AT_IMPORT | REGISTRIES).items()}
    write(folder, faults | QUEUE | {"good": GOOD, "routes": ROUTES})
    with running(folder, extended=True, deadlines=QUICK) as here:
        yield here


def web(here, name):
    rows = here.client.get("/api/v1/extensions").json()["extensions"]
    return next(row for row in rows if row["name"] == name)["web"]


def wait_for(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize(("name", "words"), [(name, words) for name, (_, words) in (AT_IMPORT | REGISTRIES).items()])
def test_what_fails_at_import_or_in_a_registry_is_listed_with_the_reason(here, name, words):
    told = web(here, name)
    assert told["status"] == "failed"
    assert words in told["reason"]
    assert "Traceback" in told["detail"] or name in {
        "tabs_core",
        "tabs_zclash",
        "routes_raise",
        "routes_exit",
        "routes_lie",
    }


def test_failing_queue_hooks_lose_no_job_and_are_off_after_three_failures(here):
    jobs = [here.submit(prompt=f"number {number}")["id"] for number in range(4)]
    done = [here.wait(job) for job in jobs]
    assert [job["started"] for job in done] == sorted(job["started"] for job in done)  # the order of arrival holds
    assert all(len(job["images"]) == 1 for job in done)
    for name in QUEUE:
        wait_for(lambda name=name: web(here, name)["failures"] == 3)
        told = web(here, name)
        assert told["status"] == "on"
        assert told["reason"].endswith("its observers are off until the next start.")
    assert "did not return from pick_next within 0.5 s" in web(here, "pick_hangs")["reason"]
    assert "no job that waits" in web(here, "pick_lies")["reason"]


def test_a_good_extension_beside_them_hears_everything_once_and_in_order(here):
    job = here.wait(here.submit(prompt="heard")["id"])
    wanted = [["enqueued", "heard", "queued"], ["started", "heard", "running"], ["picture", "heard", "easel"],
              ["ended", "heard", "done"]]  # fmt: skip
    told = lambda: [row for row in here.client.get("/ext/good/heard").json() if "heard" in row]  # noqa: E731
    wait_for(lambda: len(told()) == 4)
    assert told() == wanted
    assert here.client.get("/ext/good/heard").json()[0] == ["startup", "good"]
    assert job["state"] == "done"
    slow = here.submit(prompt="slow stopped", steps=40)["id"]
    queued = here.submit(prompt="never begun")["id"]
    for each in (queued, slow):
        here.client.post(f"/api/v1/jobs/{each}/cancel")
    wait_for(lambda: ["ended", "slow stopped", "cancelled"] in here.client.get("/ext/good/heard").json())
    assert ["ended", "never begun", "cancelled"] in here.client.get("/ext/good/heard").json()
    assert ["started", "never begun", "running"] not in here.client.get("/ext/good/heard").json()


@pytest.mark.parametrize(("path", "status", "words"), [
    ("raises", 500, "The extension routes failed in GET /ext/routes/raises: ValueError: never <b>."),
    ("exits", 500, "The extension routes failed in GET /ext/routes/exits: SystemExit: 1."),
    ("exits_loop", 500, "The extension routes failed in GET /ext/routes/exits_loop: SystemExit: 1."),
    ("user", 404, "It is not here."),
    ("nowhere", 404, "routes: Not Found."),
    ("sleeps", 504, "The extension routes did not answer GET /ext/routes/sleeps within 1 s."),
])  # fmt: skip
def test_faults_of_a_route_are_told_in_the_extensions_name(here, path, status, words):
    answer = here.client.get(f"/ext/routes/{path}")
    assert (answer.status_code, answer.json()["what"]) == (status, words)
    assert here.client.get("/ext/good/heard").status_code == 200


def test_a_router_has_no_way_to_a_path_of_easels(here):
    assert here.client.get("/ext/routes/api/v1/state").json() == "mine"
    assert "engine" in here.client.get("/api/v1/state").json()
    for path in ("/ext", "/ext/", "/ext/nobody/x", "/ext/tabs_raise/x"):
        assert here.client.get(path).status_code == 404, path


def test_bodies_are_limited_and_checked_as_everywhere(here):
    assert here.client.post("/ext/routes/body", params={"number": "x"}).status_code == 422
    big = here.client.post("/ext/routes/body?number=1", content=b"1" * (2**20 + 1),
                           headers={"Content-Type": "application/json"})  # fmt: skip
    assert big.status_code == 413


def test_an_answer_that_streams_may_take_longer_than_the_limit_for_its_beginning(here):
    started = time.monotonic()
    assert here.client.get("/ext/routes/streams").text == "0 1 2 3 4 5 6 7 "
    assert time.monotonic() - started > QUICK.answer


def test_a_route_that_blocks_its_loop_blocks_nobody_else_and_is_off_at_the_third_time(here):
    for _ in range(3):
        assert here.client.get("/ext/routes/blocks").status_code == 504
        assert here.client.get("/ext/good/heard").status_code == 200
        assert here.client.get("/api/v1/state").status_code == 200
    answer = here.client.get("/ext/routes/user")
    assert answer.status_code == 503
    assert "off until the next start" in answer.json()["what"]


def test_the_page_is_there_and_health_too(here):
    assert here.client.get("/").status_code == 200
    assert here.client.get("/health").json() == {"status": "ok"}


def test_a_job_that_was_passed_over_a_hundred_times_is_next(tmp_path):
    newest = "@hookimpl\ndef pick_next(jobs):\n    return jobs[-1].id"
    write(tmp_path, {"unfair": newest})
    studio = Studio(settings_for(tmp_path), command=FAKE_ENGINE)  # not started: nobody else asks
    host = ExtensionHost.load(studio)
    jobs = [studio.store.submit(GenerationRequest(prompt=str(number))) for number in range(3)]
    picks = [host.pick(jobs) for _ in range(101)]
    host.close()
    studio.store.close()
    assert picks[:-1] == [jobs[-1].id] * 100
    assert picks[-1] == jobs[0].id


def test_without_extensions_none_is_imported(tmp_path):
    write(tmp_path, {"raises": AT_IMPORT["raises"][0]})
    with running(tmp_path, extended=True, no_extensions=True) as here:
        assert here.studio._host.plugins.extensions == {}
        assert here.client.get("/ext/raises/x").status_code == 404


def test_the_end_is_told_and_an_extension_that_does_not_return_from_it_delays_it_only_so_long(tmp_path):
    parting = "@hookimpl\ndef on_shutdown(studio):\n    (studio.data_folder / 'parted').touch()"
    sleeping = "@hookimpl\ndef on_shutdown():\n    time.sleep(3600)"
    write(tmp_path, {"parting": parting, "sleeping": sleeping})
    studio = Studio(settings_for(tmp_path), command=FAKE_ENGINE)
    host = ExtensionHost.load(studio, Deadlines(queue=0.5, close=2.0))
    started = time.monotonic()
    host.close()
    studio.store.close()
    assert time.monotonic() - started < 5
    assert (tmp_path / "extension-data" / "parting" / "parted").exists()
    assert not list((tmp_path / ".hooks-running").glob("*"))


def test_what_is_switched_on_or_off_since_the_start_is_told(tmp_path):
    write(tmp_path, {"good": GOOD})
    write_extension(tmp_path / "extensions", "later", HEAD + GOOD, side="web")
    with running(tmp_path, extended=True) as here:
        for name, on in (("later", True), ("good", False)):
            assert web(here, name)["pending"] is False
            told = here.client.post(f"/api/v1/extensions/{name}", json={"on": on}).json()["told"]
            assert "What it has in the page follows when Easel is started again" in told
            assert (web(here, name)["pending"], web(here, name)["reason"]) == (True, "")
        assert here.client.get("/ext/good/heard").status_code == 404


def test_routes_ask_for_the_token_as_all_others(tmp_path):
    write(tmp_path, {"good": GOOD})
    with running(tmp_path, extended=True, token="a long secret") as here:
        assert here.client.get("/ext/good/heard").status_code == 401
        bearer = {"Authorization": "Bearer a long secret"}
        assert here.client.get("/ext/good/heard", headers=bearer).json() == [["startup", "good"]]
