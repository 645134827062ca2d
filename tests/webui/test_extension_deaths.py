"""Extensions that end or hang the web process itself: the launcher starts it again, and it comes back without them."""

from __future__ import annotations

import os

import pytest

from tests.webui.test_extension_host import GOOD, write
from tests.webui.test_server import Easel

pytestmark = [pytest.mark.server, pytest.mark.skipif(os.name != "posix", reason="signals and process groups")]

DEADLY = {
    "a_dies": "os._exit(0)",
    "b_hangs": "time.sleep(3600)",
    "c_hook_dies": "@hookimpl\ndef job_enqueued(job):\n    os._exit(1)",
}


def statuses(easel):
    def told():
        rows = easel.client.get("/api/v1/extensions").json()["extensions"]
        return {row["name"]: row["status"] for row in rows if not row["bundled"]}

    return easel.until(told)


def test_each_costs_one_restart_and_no_job(tmp_path):
    write(tmp_path, DEADLY | {"good": GOOD})
    easel = Easel(tmp_path, "--start-seconds", "5")
    try:
        easel.ready()
        alive = {"a_dies": "crashed", "b_hangs": "crashed", "c_hook_dies": "on", "good": "on"}
        assert statuses(easel) == alive
        assert 'b_hangs/hooks.py", line' in (tmp_path / "easel.log").read_text()  # where it hung
        job = easel.until(lambda: submitted(easel))
        assert len(easel.wait(job, "done")["images"]) == 1
        assert statuses(easel) == alive | {"c_hook_dies": "crashed"}
        code, _, err = easel.end()
        assert code == 0
        assert err.count("starting it again") == 3
        assert not list((tmp_path / ".hooks-running").glob("*"))
    finally:
        easel.client.close()
        if easel.launcher.poll() is None:
            easel.end()


def submitted(easel):
    """A job that is on disk, whether or not its answer came."""
    body = {"prompt": "a fox", "steps": 4, "seed": 7, "width": 128, "height": 128, "idempotency_key": "one"}
    answer = easel.client.post("/api/v1/jobs", json=body)
    return answer.json()["id"]
