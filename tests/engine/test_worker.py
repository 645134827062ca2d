"""The engine process: real pipes, real jobs, and its end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from backend.events import Done, Failed, ImageSaved, Planned, Ready, Step, event_from_line
from backend.request import request_to_json
from tests.engine.conftest import ask

pytestmark = pytest.mark.server


def start(data: Path, models: Path, **settings: str) -> subprocess.Popen[bytes]:
    environment = os.environ | {
        "EASEL_DATA_DIR": str(data), "EASEL_MODELS_DIR": str(models), "EASEL_DTYPE": "float32", "OMP_NUM_THREADS": "1",
    } | settings  # fmt: skip
    command = [sys.executable, "-m", "backend.engine.worker"]
    return subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def order(stdin: IO[bytes], **fields: object) -> None:
    stdin.write(json.dumps(fields).encode() + b"\n")
    stdin.flush()


@pytest.fixture
def worker(models_dir: Path, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    process = start(tmp_path, models_dir)
    yield process
    process.kill()
    process.wait()
    for pipe in (process.stdout, process.stderr):
        if pipe:
            pipe.close()


def test_jobs_cancels_faults_and_the_end(worker: subprocess.Popen[bytes]) -> None:
    assert worker.stdin and worker.stdout
    order(worker.stdin, type="job", id="good", request=request_to_json(ask("tiny-xl")))
    worker.stdin.write(b"no order\n[1]\n{}\n")
    order(worker.stdin, type="job", id="bad", request={"steps": 10_000})
    order(worker.stdin, type="job", id="long", request=request_to_json(ask("tiny-sd3", steps=150)))
    order(worker.stdin, type="job", id="stopped", request=request_to_json(ask("tiny-sd3", steps=150)))
    order(worker.stdin, type="cancel", job="stopped")
    order(worker.stdin, type="job", id="last", request=request_to_json(ask("tiny-sd3")))
    by_job: dict[str, list[object]] = {}
    cancelled = False
    for line in worker.stdout:
        event = event_from_line(line)
        if isinstance(event, Ready):
            assert event.registry["samplers"] and event.dtype == "float32"
        by_job.setdefault(getattr(event, "job", ""), []).append(event)
        if isinstance(event, Step) and event.job == "long" and not cancelled:
            order(worker.stdin, type="cancel", job="long")
            cancelled = True
        if isinstance(event, Done) and event.job == "last":
            worker.stdin.close()
    assert worker.wait(10) == 0

    good = by_job["good"]
    assert isinstance(good[0], Planned) and isinstance(good[-1], Done)
    (saved,) = [event for event in good if isinstance(event, ImageSaved)]
    assert Path(saved.path).read_bytes().startswith(b"\x89PNG")
    (bad,) = by_job["bad"]
    assert isinstance(bad, Failed) and bad.field == "steps" and "150" in bad.todo
    long = by_job["long"]
    assert isinstance(long[-1], Failed) and long[-1].code == "cancelled"
    assert sum(isinstance(event, Step) for event in long) < 150
    stopped = by_job["stopped"]
    assert isinstance(stopped[-1], Failed) and not any(isinstance(event, Step) for event in stopped)


def test_a_setting_that_cannot_be_used_ends_it_with_a_sentence(models_dir: Path, tmp_path: Path) -> None:
    process = start(tmp_path, models_dir, EASEL_DEVICE="toaster")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2
    assert errors.decode().strip().splitlines()[-1].startswith("easel: Device 'toaster'")


def test_a_sweep_whose_engine_is_killed_goes_on_with_what_is_not_saved_yet(models_dir: Path, tmp_path: Path) -> None:
    panel = {"sweep": {"version": 1, "values": {"x": "steps: 3, 4, 60"}}}
    request = request_to_json(ask("tiny-xl", extensions=panel))
    seen: list[list[object]] = []
    for attempt in range(2):
        process = start(tmp_path, models_dir)
        assert process.stdin and process.stdout and process.stderr
        order(process.stdin, type="job", id="0123456789abcdef", request=request)
        seen.append([])
        for line in process.stdout:
            event = event_from_line(line)
            seen[-1].append(event)
            if isinstance(event, Step) and event.steps == 60 and attempt == 0:
                process.kill()
            if isinstance(event, Done):
                process.stdin.close()
        process.wait(20)
        process.stdout.close()
        process.stderr.close()
    first, second = ([event for event in events if isinstance(event, ImageSaved)] for events in seen)
    assert [event.index for event in first] == [0, 1]
    assert [event.index for event in second] == [0, 1, 2, 3]
    assert [event.path for event in first] == [event.path for event in second[:2]]
    steps = [event for event in seen[1] if isinstance(event, Step)]
    assert {event.steps for event in steps} == {60}
    assert len(steps) == 60 and steps[0].batch == 2 and steps[-1].share == 1.0
    assert [*map(str, sorted((tmp_path / "outputs").rglob("*.png")))] == sorted(event.path for event in second)
