"""Two clients at once, and two processes: nothing that one of them said is lost."""

from __future__ import annotations

import concurrent.futures
import subprocess
import sys

import pytest

from backend.approvals import Approvals
from tests.extending import write_extension
from tests.webui.running import ROOT, running

pytestmark = pytest.mark.server
NAMES = [f"ext_{number:02d}" for number in range(12)]


def test_extensions_approved_at_once_are_all_approved_by_the_page_and_by_another_process(tmp_path):
    for name in [*NAMES, *(f"{name}_too" for name in NAMES)]:
        write_extension(tmp_path / "extensions", name, "", side="web")
    with running(tmp_path) as here, concurrent.futures.ThreadPoolExecutor(12) as pool:
        code = (
            "import sys; from pathlib import Path; from backend.approvals import Approvals\n"
            "for name in sys.argv[2:]: Approvals(Path(sys.argv[1])).note_crash(name)"
        )
        others = [f"{name}_too" for name in NAMES]
        command = [sys.executable, "-c", code, str(tmp_path / "extensions.json"), *others]
        other = subprocess.Popen(command, cwd=ROOT)
        answers = pool.map(lambda name: here.client.post(f"/api/v1/extensions/{name}", json={"on": True}), NAMES)
        assert {answer.status_code for answer in answers} == {202}
        assert other.wait(60) == 0
        kept = Approvals(tmp_path / "extensions.json").read()
        assert (sorted(kept["on"]), sorted(kept["crashed"])) == (NAMES, others)
        # what they say of one and the same is one answer or the other, whole
        both = pool.map(lambda on: here.client.post("/api/v1/extensions/ext_00", json={"on": on}), [True, False] * 6)
        assert {answer.status_code for answer in both} == {202}
        kept = Approvals(tmp_path / "extensions.json").read()
        assert ("ext_00" in kept["on"]) != ("ext_00" in kept["off"])


def test_a_key_makes_one_job_of_what_two_clients_send_at_once(tmp_path):
    with running(tmp_path) as here, concurrent.futures.ThreadPoolExecutor(12) as pool:
        body = {"prompt": "a fox", "steps": 4, "width": 64, "height": 64, "idempotency_key": "one"}
        told = list(pool.map(lambda _: here.client.post("/api/v1/jobs", json=body), range(12)))
        assert {answer.status_code for answer in told} == {202}
        assert len({answer.json()["id"] for answer in told}) == 1
