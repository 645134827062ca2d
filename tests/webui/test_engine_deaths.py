"""Extensions that end or hang the engine process: whose code it was is known, and the next job goes on without them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from backend.approvals import Approvals
from backend.settings import load_settings
from tests.builders import tiny_checkpoint
from tests.extending import approve_all, write_extension
from tests.webui.test_dispatcher import Rig
from webui.dispatcher import Patience
from webui.extension_list import leave_out

pytestmark = pytest.mark.server

HEAD = """
import os
import time

from backend.api import PanelSpec, Parameters, hookimpl


class Nothing(Parameters):
    pass
"""
HOSTILE = {
    "a_registry_dies": "@hookimpl\ndef register_samplers():\n    os._exit(1)",
    "b_start_dies": "@hookimpl\ndef on_startup(data_folder):\n    os._exit(1)",
    "c_load_dies": "@hookimpl\ndef model_loaded(name, part):\n    os._exit(1)",
    "d_save_hangs": "@hookimpl\ndef picture_saved(job, path, parameters):\n    time.sleep(3600)",
    "e_job_dies": (
        "@hookimpl\ndef register_panels():\n    return [PanelSpec('deadly', 'Deadly', Nothing)]\n\n"
        "@hookimpl\ndef expand_job(job):\n    os._exit(1)"
    ),
}


@pytest.fixture
def rig(tmp_path: Path, monkeypatch):
    checkpoints = tmp_path / "models" / "checkpoints"
    checkpoints.mkdir(parents=True)
    tiny_checkpoint(checkpoints / "tiny-xl.safetensors", "sdxl")
    for name, code in HOSTILE.items():
        write_extension(tmp_path / "extensions", name, HEAD + code)
    approve_all(tmp_path / "extensions", Approvals(tmp_path / "extensions.json"))
    monkeypatch.setenv("EASEL_MODELS_DIR", str(tmp_path / "models"))
    settings = load_settings(data_dir=tmp_path)
    patience = Patience(silence=10.0, start=120.0, first_pause=0.05, longest_pause=0.1, stop=2.0)
    command = [sys.executable, "-m", "backend.engine.worker"]
    rig = Rig(tmp_path, command, patience, on_deadly=lambda name: leave_out(settings, name))
    rig.dispatcher.start()
    yield rig
    rig.dispatcher.stop()
    rig.store.close()


def test_deaths_and_hangs_cost_restarts_but_no_job_that_did_not_ask_for_it(rig, tmp_path):
    job = rig.wait(rig.submit("a fox", width=64, height=64), "done", 200)
    assert len(job.images) >= 1
    assert all(Path(image.path).is_file() for image in job.images)
    crashed = Approvals(tmp_path / "extensions.json").read()["crashed"]
    assert crashed == ["a_registry_dies", "b_start_dies", "c_load_dies", "d_save_hangs"]

    extensions = {"deadly": {"version": 1, "values": {}}}
    failed = rig.wait(rig.submit("a fox", width=64, height=64, extensions=extensions), "failed", 100)
    assert "The extension e_job_dies did not return from expand_job" in failed.error["what"]
    assert failed.attempts == 1
    rig.wait(rig.submit("a hen", width=64, height=64), "done", 100)
    assert Approvals(tmp_path / "extensions.json").read()["crashed"] == crashed
