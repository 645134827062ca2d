"""The Extensions tab's routes over real HTTP; and an extension that hangs in the real engine."""

from __future__ import annotations

import os
import sys
import time

import pytest

from backend.approvals import Approvals
from tests.extending import approve_all, write_extension
from tests.webui.running import running
from tests.webui.test_dispatcher import Rig
from webui.dispatcher import Patience

SLEEPER = """
import time

from backend.api import PanelSpec, Parameters, hookimpl


class Nothing(Parameters):
    pass


@hookimpl
def register_panels():
    return [PanelSpec("sleepy", "Sleepy", Nothing)]


@hookimpl
def patch_job(job, model):
    time.sleep(3600)
"""


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    folder = tmp_path_factory.mktemp("studio")
    write_extension(folder / "extensions", "loose", SLEEPER)
    write_extension(folder / "extensions", "too_new", SLEEPER, api=">=7")
    with running(folder) as here:
        yield here


def rows(here):
    return {row["name"]: row for row in here.client.get("/api/v1/extensions").json()["extensions"]}


def switch(here, name, on):
    return here.client.post(f"/api/v1/extensions/{name}", json={"on": on})


def test_the_list_is_whole_without_a_word_of_the_engine(here):
    found = rows(here)
    assert (found["guidance"]["bundled"], found["guidance"]["status"]) == (True, "on")
    assert found["loose"]["status"] == "new"
    assert "can do whatever you can" in found["loose"]["reason"]
    assert found["loose"]["folder"].endswith("extensions/loose")
    assert found["too_new"]["status"] == "refused"


def test_a_switch_is_kept_and_the_engine_starts_anew(here):
    here.wait(here.submit(prompt="the engine is up")["id"])
    process = here.studio._dispatcher._process
    answer = switch(here, "loose", True)
    assert answer.status_code == 202, answer.text
    assert answer.json()["told"] == "loose is on. The engine is started anew now."
    assert rows(here)["loose"]["status"] == "on"
    end = time.monotonic() + 20
    while here.studio._dispatcher._process in (process, None):
        assert time.monotonic() < end
        time.sleep(0.02)
    assert "loose" in Approvals(here.studio.settings.approvals).read()["on"]
    switch(here, "guidance", False)
    assert rows(here)["guidance"]["status"] == "off"
    switch(here, "guidance", True)
    assert here.wait(here.submit(prompt="and it works")["id"])["images"]


@pytest.mark.parametrize(
    ("name", "body", "status"),
    [("nobody", {"on": True}, 404), ("too_new", {"on": True}, 400), ("loose", {"on": 1}, 400), ("loose", {}, 400),
     ("loose", {"on": True, "path": "/"}, 400)],
)  # fmt: skip
def test_what_cannot_be_switched_is_refused_in_words(here, name, body, status):
    answer = here.client.post(f"/api/v1/extensions/{name}", json=body)
    assert answer.status_code == status
    assert answer.json()["what"]


def test_figures_of_the_engine_are_told_per_picture(here):
    told = {"name": "guidance", "status": "on", "hooks": ["patch_job"], "import_seconds": 0.1,
            "hook_seconds": {"patch_job": 0.5}, "hook_calls": {"patch_job": 2}}  # fmt: skip
    from webui.extension_list import extension_rows

    row = next(row for row in extension_rows(here.studio.settings, [told], pictures=2) if row["name"] == "guidance")
    assert row["hooks"] == ["patch_job"]
    assert row["seconds_per_picture"] == 0.25


@pytest.mark.server
def test_an_extension_that_sleeps_is_named_by_the_job_that_it_hangs(tmp_path):
    from tests.builders import tiny_checkpoint

    checkpoints = tmp_path / "models" / "checkpoints"
    checkpoints.mkdir(parents=True)
    tiny_checkpoint(checkpoints / "tiny-xl.safetensors", "sdxl")
    write_extension(tmp_path / "extensions", "sleeper", SLEEPER)
    approve_all(tmp_path / "extensions", Approvals(tmp_path / "extensions.json"))
    os.environ["EASEL_MODELS_DIR"] = str(tmp_path / "models")
    try:
        patience = Patience(silence=8.0, start=120.0, first_pause=0.1, stop=2.0)
        rig = Rig(tmp_path, [sys.executable, "-m", "backend.engine.worker"], patience)
        rig.dispatcher.start()
    finally:
        del os.environ["EASEL_MODELS_DIR"]
    try:
        extensions = {"sleepy": {"version": 1, "values": {}}}
        failed = rig.wait(rig.submit("a fox", width=64, height=64, extensions=extensions), "failed", 120)
        assert "The extension sleeper did not return from patch_job" in failed.error["what"]
    finally:
        rig.dispatcher.stop()
        rig.store.close()
