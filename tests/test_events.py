"""Events travel as JSON lines and come back the same."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from backend.events import (
    ActionDone,
    ActionFailed,
    Done,
    Failed,
    ImageSaved,
    Note,
    Plan,
    Planned,
    Ready,
    Residents,
    Step,
    event_from_line,
    event_to_line,
)

EVENTS = [
    Planned(job="a", plan=Plan(loads=("demo-xl: U-Net (22 MiB)",), needs_bytes=5, seconds=1.5)),
    Step(job="a", step=1, steps=20, batch=0, batches=1, seconds_left=3.25, preview="aGk="),
    ImageSaved(job="a", index=0, path="/x/y.png", seed=2**53 - 1, width=64, height=64, parameters='a "fox"\nSteps: 1'),
    Note(job="a", text="rounded\nto 64 狐"),
    Done(job="a", seconds=2.0),
    Failed(job="a", code="nan_detected", what="NaN.", todo="", field=None),
    Ready(registry={"schema": 1, "samplers": []}, device="CPU", dtype="float32"),
    Residents(parts=("demo-xl: VAE",), bytes=7),
    ActionDone(action="a", text="x", picture="0" * 64, values={"level": 1}, fields={"prompt": "狐"}, notes=("n",)),
    ActionFailed(action="a", code="extension_failed", what="It failed."),
]


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.type)
def test_an_event_is_one_line_and_comes_back(event):
    line = event_to_line(event)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert event_from_line(line) == event


@pytest.mark.parametrize("line", [b"", b"noise\n", b"{}", b'{"type": "strange"}', b'{"type": "step"}', b"[1]", b"\xff"])
def test_anything_else_is_refused(line):
    with pytest.raises(ValidationError):
        event_from_line(line)
