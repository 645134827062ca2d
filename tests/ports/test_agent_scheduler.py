"""Agent Scheduler's core as an extension: its own order, priorities and pause over real HTTP, and nothing is lost."""

from __future__ import annotations

import time

import pytest

from tests.ports.place import install
from tests.webui.running import running

BASE = "/ext/agent_scheduler"
HELD = "Agent Scheduler holds the queue: it is paused."


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scheduled")
    install(folder, "agent_scheduler")
    with running(folder, extended=True) as here:
        yield here


def ask(here, method, path, status=200, **more):
    answer = here.client.request(method, BASE + path, **more)
    assert answer.status_code == status, answer.text
    return answer.json()


def waiting(here):
    return [job["prompt"] for job in ask(here, "GET", "/queue")["jobs"]]


def wait_until_held(here):
    end = time.monotonic() + 20
    while here.client.get("/api/v1/state").json()["engine"]["trouble"] != HELD:
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_paused_queue_keeps_its_jobs_in_the_users_order_and_runs_them_so(here):
    assert ask(here, "POST", "/pause")["paused"] is True
    ids = {words: here.submit(prompt=words)["id"] for words in ("one", "two", "three", "four", "five")}
    wait_until_held(here)
    assert waiting(here) == ["one", "two", "three", "four", "five"]
    ask(here, "POST", f"/jobs/{ids['four']}/first")
    ask(here, "POST", f"/jobs/{ids['one']}/before/{ids['five']}")
    assert waiting(here) == ["four", "two", "three", "one", "five"]
    ask(here, "POST", f"/jobs/{ids['five']}/priority", json={"priority": 3})
    assert waiting(here) == ["five", "four", "two", "three", "one"]
    assert ask(here, "DELETE", f"/jobs/{ids['two']}")["state"] == "cancelled"
    assert ask(here, "POST", "/resume")["paused"] is False
    for words in ("five", "four", "three", "one"):
        here.wait(ids[words])
    jobs = {words: here.client.get(f"/api/v1/jobs/{job}").json() for words, job in ids.items()}
    started = sorted((words for words in ids if words != "two"), key=lambda words: jobs[words]["started"])
    assert started == ["five", "four", "three", "one"]
    assert here.client.get("/api/v1/state").json()["engine"]["trouble"] == ""


def test_a_job_of_the_history_runs_again(here):
    done = here.wait(here.submit(prompt="once more")["id"])
    told = ask(here, "POST", f"/jobs/{done['id']}/again", 202)
    assert told["id"] != done["id"]
    again = here.wait(told["id"])
    assert again["request"] == done["request"]
    assert [job["prompt"] for job in ask(here, "GET", "/history?limit=2")["jobs"]] == ["once more", "once more"]


def past(here, job):
    (row,) = [each for each in ask(here, "GET", "/history")["jobs"] if each["id"] == job]
    return row


def settled_past(here, job, starts=1):
    """As ``past``, once its hooks have run: they come after the event, in a thread of their own."""
    end = time.monotonic() + 20
    while len((row := past(here, job))["started"]) < starts:
        assert time.monotonic() < end, row
        time.sleep(0.05)
    return row


def test_job_enqueued_and_job_started_make_a_history_that_tells_how_long_a_job_waited(here):
    ask(here, "POST", "/pause")
    job, dropped = (here.submit(prompt=words)["id"] for words in ("patience", "in vain"))
    wait_until_held(here)
    ask(here, "DELETE", f"/jobs/{dropped}")
    time.sleep(0.3)
    ask(here, "POST", "/resume")
    done = here.wait(job)
    row = settled_past(here, job)
    assert (row["enqueued"], row["started"]) == ([done["created"]], [done["started"]])
    assert row["waited"] == pytest.approx(done["started"] - done["created"], abs=1e-6)
    assert row["waited"] > 0.3
    row = past(here, dropped)
    assert (len(row["enqueued"]), row["started"], row["waited"]) == (1, [], None)
    assert ask(here, "GET", "/history?limit=0", 422)["field"] == "limit"


def test_an_attempt_that_was_cut_off_is_told(here):
    job = here.submit(prompt="crash-once")["id"]
    here.wait(job)
    row = settled_past(here, job, starts=2)
    assert len(row["enqueued"]) == 2
    times = [row["enqueued"][0], row["started"][0], row["enqueued"][1], row["started"][1]]
    assert times == sorted(times)


def test_the_history_outlives_the_process(tmp_path):
    install(tmp_path, "agent_scheduler")
    with running(tmp_path, extended=True) as here:
        job = here.submit(prompt="kept")["id"]
        here.wait(job)
        before = settled_past(here, job)
    with running(tmp_path, extended=True) as here:
        assert past(here, job) == before
        assert before["waited"] is not None


def test_what_it_refuses_has_the_shape_of_all_errors(here):
    told = ask(here, "POST", "/jobs/nobody/first", 400)
    assert told["what"] == "The job 'nobody' does not wait."
    assert ask(here, "POST", "/jobs/nobody/priority", 422, json={"priority": 99})["field"] == "priority"
    assert ask(here, "GET", "/nowhere", 404)["code"] == "not_found"
    assert ask(here, "POST", "/jobs/nobody/again", 404)["code"] == "not_found"
    foreign = here.client.post(f"{BASE}/pause", headers={"Origin": "http://evil.example"})
    assert foreign.status_code == 403
    assert ask(here, "GET", "/queue")["paused"] is False


def test_order_and_pause_outlive_the_process(tmp_path):
    install(tmp_path, "agent_scheduler")
    with running(tmp_path, extended=True) as here:
        ask(here, "POST", "/pause")
        ids = [here.submit(prompt=words)["id"] for words in ("a", "b", "c")]
        ask(here, "POST", f"/jobs/{ids[2]}/first")
    with running(tmp_path, extended=True) as here:
        assert ask(here, "GET", "/queue")["paused"] is True
        wait_until_held(here)
        assert waiting(here) == ["c", "a", "b"]
        ask(here, "POST", "/resume")
        for job in ids:
            here.wait(job)
        started = [here.client.get(f"/api/v1/jobs/{job}").json()["started"] for job in (ids[2], ids[0], ids[1])]
        assert started == sorted(started)


def test_switched_off_it_holds_nothing_any_more(tmp_path):
    install(tmp_path, "agent_scheduler")
    with running(tmp_path, extended=True) as here:
        ask(here, "POST", "/pause")
        job = here.submit(prompt="held")["id"]
        wait_until_held(here)
        told = here.client.post("/api/v1/extensions/agent_scheduler", json={"on": False}).json()
        assert "follows when Easel is started again" in told["told"]
        assert here.wait(job)["state"] == "done"
        assert here.client.get(f"{BASE}/queue").status_code == 404
