"""The job store keeps what it accepted, gives each job to one taker and tells each fault in a sentence."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from backend.errors import BadRequest, Cancelled, DataUnusable, NanDetected, NotFound
from backend.events import Failed
from backend.records import jobs as jobs_module
from backend.records.jobs import JobStore
from backend.request import GenerationRequest

FOX = GenerationRequest(prompt="a fox", seed=7)


@pytest.fixture
def store(tmp_path):
    store = JobStore(tmp_path / "easel.sqlite")
    yield store
    store.close()


def add_picture(store: JobStore, job: str, index: int = 0, seed: int = 7):
    return store.add_image(
        job, index=index, path=f"2026/{seed}.png", seed=seed, width=64, height=64, parameters="a fox"
    )


def test_an_accepted_job_is_there_after_reopening(tmp_path):
    first = JobStore(tmp_path / "s.sqlite")
    job = first.submit(FOX, notes=["width rounded"])
    first.close()
    again = JobStore(tmp_path / "s.sqlite")
    assert again.get(job.id) == job
    assert job.request == FOX
    assert job.notes == ("width rounded",)
    again.close()


def test_an_accepted_job_survives_a_killed_process(tmp_path):
    code = (
        "import os, sys, signal; from pathlib import Path\n"
        "from backend.records.jobs import JobStore; from backend.request import GenerationRequest\n"
        "s = JobStore(Path(sys.argv[1])); s.submit(GenerationRequest(prompt='a')); s.submit(GenerationRequest())\n"
        "s.claim(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "s.sqlite")], check=False)
    store = JobStore(tmp_path / "s.sqlite")
    assert [job.state for job in store.list()] == ["queued", "running"]
    assert [job.state for job in store.requeue_running()] == ["queued"]
    store.close()


def test_the_same_key_gives_one_job(store):
    first = store.submit(FOX, "click-1")
    second = store.submit(GenerationRequest(prompt="other"), "click-1")
    assert first == second
    assert len(store.list()) == 1
    assert store.by_key("click-1") == first
    assert store.by_key("click-2") is None
    with pytest.raises(BadRequest, match="201 characters"):
        store.submit(FOX, "k" * 201)


def test_jobs_are_claimed_in_order_and_once(store):
    ids = [store.submit(FOX).id for _ in range(24)]
    taken: list[str] = []

    def take():
        while (job := store.claim()) is not None:
            taken.append(job.id)

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == sorted(ids)
    assert store.claim() is None
    assert {job.attempts for job in store.list()} == {1}


def test_queue_and_list_tell_the_order(store):
    ids = [store.submit(FOX).id for _ in range(4)]
    store.claim()
    assert store.queue() == ids[1:]
    assert [job.id for job in store.list(2)] == ids[:1:-1]
    older = store.list(10, before=store.get(ids[2]).number)
    assert [job.id for job in older] == [ids[1], ids[0]]
    assert [job.id for job in store.list(states=["running"])] == ids[:1]


def test_a_job_that_kills_the_engine_twice_fails_with_the_cause(store):
    job = store.submit(FOX).id
    store.claim()
    assert store.requeue_running()[0].state == "queued"
    assert store.claim().attempts == 2
    failed = store.requeue_running()[0]
    assert failed.state == "failed"
    assert failed.error["code"] == "worker_crashed"
    assert store.claim() is None
    assert store.get(job).is_finished


def test_a_requeued_job_keeps_its_place(store):
    first, second = store.submit(FOX).id, store.submit(FOX).id
    store.claim()
    store.requeue_running()
    assert store.queue() == [first, second]


def test_a_stopped_job_is_not_run_again_after_a_crash(store):
    job = store.submit(FOX).id
    store.claim()
    assert store.cancel(job).cancel_requested
    assert store.requeue_running()[0].state == "cancelled"


def test_cancel_ends_a_waiting_job_and_flags_a_running_one(store):
    waiting, running = store.submit(FOX).id, None
    assert store.cancel(waiting).state == "cancelled"
    running = store.submit(FOX).id
    store.claim()
    flagged = store.cancel(running)
    assert (flagged.state, flagged.cancel_requested) == ("running", True)
    assert store.fail(running, Cancelled("Stopped at step 3."))
    assert store.get(running).state == "cancelled"
    assert store.get(running).error is None
    assert store.cancel(running).state == "cancelled"
    with pytest.raises(NotFound):
        store.cancel("nothing")


def test_a_failure_keeps_code_and_sentence(store):
    one, two = store.submit(FOX).id, store.submit(FOX).id
    store.claim(), store.claim()
    store.fail(one, NanDetected("NaN at step 4.", "Use float32."))
    store.fail(two, Failed(code="out_of_memory", what="No room.", todo="Smaller."))
    assert store.get(one).error == {"code": "nan_detected", "what": "NaN at step 4.", "todo": "Use float32.",
                                    "field": None}  # fmt: skip
    assert store.get(two).error["code"] == "out_of_memory"


def test_a_late_commit_is_refused(store):
    job = store.submit(FOX).id
    first = store.claim()
    store.requeue_running()
    second = store.claim()
    assert not store.finish(job, attempt=first.attempts)
    assert store.get(job).state == "running"
    assert store.finish(job, attempt=second.attempts)
    assert not store.fail(job, NanDetected("late"))
    assert store.get(job).state == "done"


def test_a_picture_made_again_keeps_its_id_and_place(store):
    job = store.submit(FOX).id
    store.claim()
    first, other = add_picture(store, job), add_picture(store, job, 1)
    again = add_picture(store, job, seed=8)
    assert again.id == first.id
    assert [image.seed for image in store.images(job)] == [8, 7]
    assert store.image(other.id) == other
    assert len({first.id, other.id, job}) == 3
    with pytest.raises(NotFound):
        store.image("../../etc/passwd")


def test_notes_are_kept_once(store):
    job = store.submit(FOX).id
    store.add_note(job, "VAE again in float32")
    store.add_note(job, "VAE again in float32")
    assert store.get(job).notes == ("VAE again in float32",)


def test_more_than_the_pending_limit_is_refused(store, monkeypatch):
    monkeypatch.setattr(jobs_module, "MAX_PENDING", 3)
    for _ in range(3):
        store.submit(FOX, "x" if not store.queue() else None)
    with pytest.raises(BadRequest, match="3 jobs are waiting"):
        store.submit(FOX)
    assert store.submit(FOX, "x").state == "queued"  # a retry of an accepted one still finds it
    store.claim()
    store.submit(FOX)


def test_version_rises_with_each_change_and_only_then(store):
    before = store.version
    job = store.submit(FOX).id
    submitted = store.version
    store.list(), store.get(job), store.queue()
    assert before < submitted == store.version
    store.claim()
    assert store.version > submitted


def test_a_request_of_another_version_fails_with_a_sentence_and_the_next_job_runs(tmp_path):
    path = tmp_path / "s.sqlite"
    store = JobStore(path)
    old, new = store.submit(FOX).id, store.submit(FOX).id
    store.close()
    with sqlite3.connect(path) as raw:
        raw.execute("UPDATE jobs SET request = '{\"strange\": 1}' WHERE id = ?", (old,))
    raw.close()
    store = JobStore(path)
    assert "strange" in store.get(old).error["what"]
    assert store.claim().id == new
    assert store.get(old).state == "failed"
    store.close()


def test_a_newer_store_is_refused_unchanged(tmp_path):
    path = tmp_path / "s.sqlite"
    JobStore(path).close()
    raw = sqlite3.connect(path)
    raw.execute("PRAGMA user_version = 99")
    raw.close()
    with pytest.raises(DataUnusable, match=r"newer Easel.*99"):
        JobStore(path)


@pytest.mark.parametrize(
    "content", [b"not a database at all, but long enough to be looked at" * 40, b"SQLite format 3\0"]
)
def test_a_broken_store_is_told_and_left_alone(tmp_path, content):
    path = tmp_path / "s.sqlite"
    path.write_bytes(content)
    with pytest.raises(DataUnusable):
        JobStore(path)
    assert path.read_bytes() == content


def test_another_programs_database_is_not_touched(tmp_path):
    path = tmp_path / "s.sqlite"
    raw = sqlite3.connect(path)
    raw.execute("CREATE TABLE theirs (a)")
    raw.commit()
    raw.close()
    with pytest.raises(DataUnusable, match="not Easel's"):
        JobStore(path)


def test_a_second_server_on_the_same_folder_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr("backend.records.database.LOCK_SECONDS", 0.05)
    first = JobStore(tmp_path / "s.sqlite")
    with pytest.raises(DataUnusable, match="Another Easel"):
        JobStore(tmp_path / "s.sqlite")
    assert first.submit(FOX).state == "queued"
    first.close()
    JobStore(tmp_path / "s.sqlite").close()


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataUnusable, match="cannot be opened"):
        JobStore(Path(tmp_path / "file" / "s.sqlite"))


def test_changes_are_told_in_their_order_after_they_are_on_disk(tmp_path):
    store, told = JobStore(tmp_path / "easel.sqlite"), []
    store.on_change = lambda what: told.append(getattr(what, "state", "picture"))
    first, second = (store.submit(GenerationRequest(prompt=words)) for words in ("one", "two"))
    assert store.claim(second.id).id == second.id
    assert store.claim(second.id) is None
    store.add_image(second.id, index=0, path="x.png", seed=1, width=8, height=8, parameters="")
    store.requeue_running()
    store.claim(second.id)
    store.finish(second.id)
    store.cancel(first.id)
    store.cancel(first.id)
    assert told == ["queued", "queued", "running", "picture", "queued", "running", "done", "cancelled"]

    def broken(_what):
        raise ValueError("a listener")

    store.on_change = broken
    assert store.submit(GenerationRequest(prompt="three")).state == "queued"
    store.close()


def test_pictures_are_listed_newest_first_page_by_page(tmp_path):
    store = JobStore(tmp_path / "easel.sqlite")
    job = store.submit(GenerationRequest(prompt="one"))
    made = [
        store.add_image(job.id, index=index, path=f"{index}.png", seed=index, width=8, height=8, parameters="").id
        for index in range(5)
    ]
    assert [image.id for image in store.pictures(2)] == made[:2:-1]
    assert [image.id for image in store.pictures(9, before=made[3])] == made[2::-1]
    with pytest.raises(NotFound):
        store.pictures(1, before="nobody")
    store.close()
