"""Buttons of panels over real HTTP and with the real engine: beside a running job, and when they misbehave."""

from __future__ import annotations

import concurrent.futures
import io
import sys
import time

import pytest
from PIL import Image

from backend.approvals import Approvals
from tests.acting import BUTTONS, OTHER
from tests.builders import tiny_checkpoint
from tests.extending import approve_all, write_extension
from tests.webui.running import running
from webui import acting
from webui.dispatcher import Patience

pytestmark = pytest.mark.server
WORKER = [sys.executable, "-m", "backend.engine.worker"]
PATIENT = Patience(silence=60.0, start=120.0, first_pause=0.05, longest_pause=0.2, stop=2.0, store=0.2)


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    folder = tmp_path_factory.mktemp("studio")
    (folder / "models" / "checkpoints").mkdir(parents=True)
    tiny_checkpoint(folder / "models" / "checkpoints" / "tiny-xl.safetensors", "sdxl")
    write_extension(folder / "extensions", "buttons", BUTTONS)
    write_extension(folder / "extensions", "other", OTHER)
    approve_all(folder / "extensions", Approvals(folder / "extensions.json"))
    with running(folder, command=WORKER, patience=PATIENT) as here:
        early = press(here, "preview")
        assert early.status_code in {404, 503}, early.text  # it starts: nothing is known of it, or it is not up
        wait_until_up(here)
        yield here


def wait_until_up(here) -> None:
    end = time.monotonic() + 120
    while here.client.get("/api/v1/state").json()["engine"]["state"] != "ready":
        assert time.monotonic() < end
        time.sleep(0.1)


def press(here, name: str, panel: str = "buttons", **fields):
    fields = {"prompt": "a fox", "checkpoint": "tiny-xl", "width": 64, "height": 64, **fields}
    return here.client.post(f"/api/v1/extensions/{panel}/actions/{name}", json=fields)


def test_the_registry_tells_of_actions_and_one_gives_a_picture_by_its_hash(here):
    panels = {panel["name"]: panel for panel in here.client.get("/api/v1/registry").json()["panels"]}
    assert panels["buttons"]["actions"][0] == {
        "name": "preview", "label": "Preview", "help": "A button.", "seconds": 60.0,
    }  # fmt: skip
    answer = press(here, "preview", extensions={"buttons": {"version": 1, "values": {"level": 4}}})
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert (told["text"], told["values"], told["fields"]) == ("level 4", {}, {})
    assert told["notes"][-1] == "buttons: a fox, 64 wide"
    assert (told["picture"]["width"], told["picture"]["height"]) == (40, 30)
    picture = Image.open(io.BytesIO(here.client.get(told["picture"]["url"]).content))
    assert picture.size == (40, 30)
    assert press(here, "rewrite").json()["fields"] == {"prompt": "a fox, at dusk"}


@pytest.mark.parametrize(
    ("name", "fields", "status", "words"),
    [
        ("previw", {}, 404, "Did you mean 'preview'"),
        ("preview", {"steps": 1000}, 400, "1 to 150"),
        ("preview", {"extensions": {"buttons": {"version": 1, "values": {"level": 99}}}}, 400, "Level"),
        ("preview", {"extensions": {"nobody": {}}}, 400, "nobody"),
        ("preview", {"init_image": "0" * 64}, 404, "is not stored"),
        ("preview", {"checkpoint": "gone"}, 404, "gone"),
        ("refuse", {}, 400, "There is nothing to preview."),
        ("fail", {}, 422, "The extension buttons failed in its action fail: RuntimeError: bang."),
        ("leave", {}, 422, "SystemExit"),
        ("nothing", {}, 422, "NoneType"),
        ("seed", {}, 422, "random state"),
    ],
)
def test_what_cannot_be_done_is_answered_in_words(here, name, fields, status, words):
    answer = press(here, name, **fields)
    assert answer.status_code == status, answer.text
    told = answer.json()
    assert words in f"{told['what']} {told['todo']}"


def test_an_action_does_not_wait_for_a_job_and_changes_none_of_its_bytes(here):
    size = {"checkpoint": "tiny-xl", "width": 64, "height": 64}
    alone = here.wait(here.submit(prompt="a fox", **size)["id"])
    before = here.client.get(alone["images"][0]["url"]).content
    long = here.submit(prompt="a fox", steps=150, batch_count=100, **size)
    here.wait(long["id"], "running")
    for name in ("preview", "seed", "grad"):
        assert press(here, name).status_code in {200, 422}
    assert here.client.get(f"/api/v1/jobs/{long['id']}").json()["state"] == "running"
    here.client.post(f"/api/v1/jobs/{long['id']}/cancel")
    here.wait(long["id"], "cancelled")
    again = here.wait(here.submit(prompt="a fox", **size)["id"])
    assert here.client.get(again["images"][0]["url"]).content == before


def test_the_engine_dies_of_one_and_whoever_waited_hears_it(here):
    answer = press(here, "die")
    assert answer.status_code == 503
    assert "exit code 7" in answer.json()["what"]
    wait_until_up(here)
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: press(here, "sleep").status_code, range(6)))
    assert sorted(answers) == [200] * 4 + [400] * 2  # four may wait


def test_one_that_hangs_is_answered_others_run_and_the_engine_restarted_between_two_jobs_frees_it(here):
    answer = press(here, "forever")
    assert (answer.status_code, answer.json()["code"]) == (422, "action_hangs")
    assert "gave no answer within 0.5 seconds" in answer.json()["what"]
    refused = press(here, "preview").json()
    assert (refused["code"], "has not returned yet" in refused["what"]) == ("action_hangs", True)
    assert press(here, "hello", panel="greeter").json()["text"] == "hello"
    size = {"checkpoint": "tiny-xl", "width": 64, "height": 64}
    jobs = [
        here.submit(prompt="a fox", steps=150, batch_count=3, **size)["id"],
        here.submit(prompt="a cat", **size)["id"],
    ]
    here.wait(jobs[0], "running")
    assert here.client.post("/api/v1/restart", json={"what": "engine"}).json()["told"].endswith("finished.")
    for job in jobs:
        assert here.wait(job)["images"]
    wait_until_up(here)
    assert press(here, "preview").json()["text"] == "level 2"
    wrong = here.client.post("/api/v1/restart", json={"what": "house"})
    assert (wrong.status_code, wrong.json()["todo"]) == (400, "Accepted: page, engine.")


def test_one_that_holds_the_whole_engine_is_ended_with_it_and_the_job_at_hand_is_done_again(here, monkeypatch):
    monkeypatch.setattr(acting, "MARGIN", 1.0)
    size = {"checkpoint": "tiny-xl", "width": 64, "height": 64}
    job = here.submit(prompt="a fox", steps=60, **size)["id"]
    here.wait(job, "running")
    answer = press(here, "hold")
    assert (answer.status_code, answer.json()["code"]) == (503, "engine_silent")
    assert here.client.post("/api/v1/restart", json={"what": "engine"}).status_code == 202
    assert len(here.wait(job)["images"]) == 1
    wait_until_up(here)
    assert press(here, "preview").status_code == 200
