"""The dispatcher with a real child process in the engine's place and a real job store."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from backend.records.jobs import Job, JobStore
from backend.request import GenerationRequest
from webui.dispatcher import Dispatcher, Patience
from webui.live import Live

FAKE = Path(__file__).with_name("fake_engine.py")
QUICK = Patience(silence=1.5, start=20.0, first_pause=0.05, longest_pause=0.2, stop=2.0, store=0.2)


class Rig:
    def __init__(
        self, folder: Path, command: list[str] | None = None, patience: Patience = QUICK, **options: object
    ) -> None:
        self.store = JobStore(folder / "easel.sqlite")
        self.live = Live()
        self.registries: list[dict] = []
        root = str(Path(__file__).parents[2])
        environment = {**os.environ, "EASEL_DATA_DIR": str(folder), "PYTHONPATH": root}
        self.dispatcher = Dispatcher(
            self.store,
            self.live,
            command or [sys.executable, str(FAKE)],
            environment,
            on_ready=self.registries.append,
            patience=patience,
            **options,
        )

    def submit(self, prompt: str, **fields) -> Job:
        job = self.store.submit(GenerationRequest(prompt=prompt, steps=4, seed=7, **fields))
        self.dispatcher.wake()
        return job

    def wait(self, job: Job, state: str, seconds: float = 20) -> Job:
        end = time.monotonic() + seconds
        while (now := self.store.get(job.id)).state != state:
            assert not now.is_finished, (now.state, now.error)
            assert time.monotonic() < end, (now.state, self.live.engine)
            time.sleep(0.02)
        return now


@pytest.fixture(scope="module")
def rig(tmp_path_factory):
    rig = Rig(
        tmp_path_factory.mktemp("studio")
    )  # one for all: a start takes a second, and each test must leave it well
    rig.dispatcher.start()
    yield rig
    rig.dispatcher.stop()
    rig.store.close()


def wait_until(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_job_becomes_pictures_notes_and_a_plan(rig):
    job = rig.submit("a fox chatter", batch_count=3)
    done = rig.wait(job, "done")
    assert [(image.index, image.seed) for image in done.images] == [(0, 7), (1, 8), (2, 9)]
    assert all(Path(image.path).is_file() for image in done.images)
    assert done.notes == ("Made by the fake engine.",)
    assert (
        rig.live.plan(job.id) == "4 model calls, about 1 s on cpu in float32. Needs 1 MiB. Loads fake: U-Net (1 MiB)."
    )
    assert rig.live.engine.state == "ready"
    assert rig.live.engine.residents == ("fake: U-Net (1 MiB)",)
    assert rig.registries[0]["samplers"]


def test_progress_is_told_while_a_job_runs_and_gone_after_it(rig):
    job = rig.submit("slow")
    wait_until(lambda: rig.live.progress(job.id) is not None)
    progress = rig.live.progress(job.id)
    assert progress is not None
    assert progress.steps == 4
    assert progress.preview.startswith("data:image/jpeg;base64,")
    rig.wait(job, "done")
    wait_until(lambda: rig.live.progress(job.id) is None)


def test_jobs_run_in_the_order_they_came(rig):
    jobs = [rig.submit(f"number {n}") for n in range(5)]
    finished = [rig.wait(job, "done").finished for job in jobs]
    assert finished == sorted(finished)


def test_a_failure_the_engine_reports_is_kept_with_the_job(rig):
    job = rig.wait(rig.submit("fail"), "failed")
    assert job.error == {"code": "out_of_memory", "what": "There is too little memory.", "todo": "Use a smaller size.",
                         "field": None}  # fmt: skip
    assert rig.wait(rig.submit("next"), "done").images


def test_an_engine_is_started_anew_between_two_jobs(rig):
    before = len(rig.registries)
    running, waiting = rig.submit("slow"), rig.submit("waits")
    wait_until(lambda: rig.live.progress(running.id) is not None)
    rig.dispatcher.renew()
    assert rig.wait(running, "done").attempts == 1
    assert rig.wait(waiting, "done").attempts == 1
    assert len(rig.registries) == before + 1
    assert rig.live.engine.trouble == ""


def test_a_job_that_hangs_in_a_hook_fails_at_once_and_names_the_extension(rig):
    failed = rig.wait(rig.submit("hook hang"), "failed")
    assert failed.attempts == 1
    assert failed.error["code"] == "extension_failed"
    assert "The extension sleepy did not return from patch_job" in failed.error["what"]
    assert rig.wait(rig.submit("next"), "done").images


def test_cancel_ends_a_running_job_and_leaves_a_waiting_one(rig):
    running, waiting = rig.submit("slow", batch_size=2), rig.submit("waits")
    wait_until(lambda: rig.live.progress(running.id) is not None)
    rig.store.cancel(running.id)
    rig.dispatcher.cancel(running.id)
    rig.wait(running, "cancelled", 2)
    rig.wait(waiting, "done")


def test_a_cancelled_waiting_job_never_runs(rig):
    slow, waiting = rig.submit("slow"), rig.submit("waits")
    rig.store.cancel(waiting.id)
    rig.dispatcher.cancel(waiting.id)
    rig.wait(slow, "done")
    last = rig.submit("last")
    rig.wait(last, "done")
    assert rig.store.get(waiting.id).state == "cancelled"
    assert not rig.store.get(waiting.id).images


def test_a_crash_queues_the_job_again_and_the_next_engine_does_it(rig):
    job = rig.wait(rig.submit("crash-once"), "done")
    assert job.attempts == 2
    assert job.images


def test_a_job_that_kills_the_engine_twice_fails_with_the_cause_and_the_next_works(rig):
    job = rig.wait(rig.submit("crash"), "failed")
    assert job.error["code"] == "worker_crashed"
    assert "exit code 3" in job.error["what"]
    assert job.attempts == 2
    assert rig.wait(rig.submit("next"), "done").images


def test_a_hanging_engine_is_ended_and_started_again(rig):
    job = rig.wait(rig.submit("hang"), "failed", 30)
    assert job.error["code"] == "worker_crashed"
    assert "gave no sign" in job.error["what"]
    assert rig.wait(rig.submit("next"), "done").images


def test_a_cancelled_job_whose_engine_is_deaf_and_hangs_ends_as_cancelled(rig):
    job = rig.submit("hang deaf")
    wait_until(lambda: rig.live.progress(job.id) is not None)
    rig.store.cancel(job.id)
    rig.dispatcher.cancel(job.id)
    rig.wait(job, "cancelled")


def test_stopping_leaves_no_process_and_the_job_waits_again(tmp_path):
    rig = Rig(tmp_path)
    rig.dispatcher.start()
    job = rig.submit("slow")
    wait_until(lambda: rig.live.progress(job.id) is not None)
    process = rig.dispatcher._process
    rig.dispatcher.stop()
    assert process.wait(0)
    assert rig.store.get(job.id).state == "queued"
    rig.store.close()


def test_jobs_that_ran_when_the_server_died_run_again_at_the_next_start(tmp_path):
    store = JobStore(tmp_path / "easel.sqlite")
    job = store.submit(GenerationRequest(prompt="a fox", steps=2, seed=1))
    assert store.claim().id == job.id
    store.close()
    rig = Rig(tmp_path)
    rig.dispatcher.start()
    assert rig.wait(job, "done").attempts == 2
    rig.dispatcher.stop()
    rig.store.close()


UNABLE = "import sys; sys.stderr.write('easel: Device cuda is not there.\\n'); sys.exit(2)"


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        (["/does/not/exist"], "The engine process cannot be started (No such file or directory)."),
        ([sys.executable, "-c", "import os; os._exit(1)"], "It ended (exit code 1)."),
        ([sys.executable, "-c", UNABLE], "Device cuda is not there."),
    ],
)
def test_an_engine_that_cannot_start_is_told_and_tried_again(tmp_path, command, sentence):
    rig = Rig(tmp_path, command)
    rig.dispatcher.start()
    wait_until(lambda: rig.dispatcher._deaths >= 3)
    assert rig.live.engine.state in {"down", "starting"}
    assert sentence in rig.live.engine.trouble
    rig.dispatcher.stop()
    rig.store.close()
