"""Orders that become several are checked as a whole before they are accepted."""

from __future__ import annotations

import pytest

from backend.records.registry import core_registry
from tests.webui.running import running

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    with running(tmp_path_factory.mktemp("orders")) as started:
        yield started


SWEEP = {
    "name": "sweep", "label": "Sweep", "owner": "sweep", "tabs": ["txt2img"], "families": [], "version": 1,
    "schema": {"properties": {"x": {"type": "string", "title": "X", "default": "", "kind": "axis"}}},
}  # fmt: skip


def test_a_sweep_with_a_value_that_is_not_taken_is_refused_when_it_is_submitted(here):
    here.studio._take_registry(core_registry() | {"panels": [SWEEP]})
    for axis, words in [("sampler: euler, eulr", "Did you mean 'Euler'"), ("stps: 1", "steps"), ("steps: 0", "steps"),
                        ("checkpoint: xl, xm", "xm"), ("seed: 1-2000", "1,000")]:  # fmt: skip
        asked = {"prompt": "a fox", "extensions": {"sweep": {"values": {"x": axis}}}}
        answer = here.client.post("/api/v1/jobs", json=asked)
        assert 400 <= answer.status_code < 500
        assert words in answer.json()["what"] + answer.json()["todo"], answer.json()
    before = len(here.client.get("/api/v1/jobs").json()["jobs"])
    assert here.submit(prompt="a fox", extensions={"sweep": {"values": {"x": "steps: 2-4"}}})["id"]
    assert len(here.client.get("/api/v1/jobs").json()["jobs"]) == before + 1
