"""An extension whose panel has buttons of every kind, good and bad, for the tests of both processes."""

from __future__ import annotations

BUTTONS = """
import os
import re
import sys
import time

import torch
from PIL import Image

from backend.api import *


class Buttons(Parameters):
    level: int = whole(2, low=1, high=9, label="Level")
    words: str = text(label="Words")


def preview(job):
    level = job.values["buttons"].level
    job.note(f"{job.request.prompt}, {job.request.width} wide")
    return ActionResult(picture=Image.new("L", (40, 30), 20 * level), text=f"level {level}")

def rewrite(job):
    prompt = job.request.prompt
    return ActionResult(values={"level": 7, "words": prompt}, fields={"prompt": f"{prompt}, at dusk"})

def grad(job):
    return ActionResult(text=str(torch.is_grad_enabled()))

def model(job):
    return ActionResult(text=f"{job.checkpoint().family} in {job.models_dir.name}")

def sleep(job):
    time.sleep(3)
    return ActionResult(text="slept")

def forever(job):
    time.sleep(3600)

def hold(job):  # Python's lock, in C code, for longer than anybody waits
    re.match(r"(a+)+$", "a" * 60 + "b")

def refuse(job):
    raise BadRequest("There is nothing to preview.", "Choose a picture.", field="extensions")

def leave(job):
    sys.exit(3)

def interrupt(job):
    raise KeyboardInterrupt

def fail(job):
    raise RuntimeError("bang")

def die(job):
    os._exit(7)

def seed(job):
    torch.manual_seed(1)
    return ActionResult()

RESULTS = {
    "nothing": lambda job: None,
    "no_picture": lambda job: ActionResult(picture="a string"),
    "no_text": lambda job: ActionResult(text=5),
    "bad_value": lambda job: ActionResult(values={"level": 10}),
    "unknown_value": lambda job: ActionResult(values={"volume": 1}),
    "bad_field": lambda job: ActionResult(fields={"steps": "many"}),
    "unknown_field": lambda job: ActionResult(fields={"extensions": {}}),
}


@hookimpl
def register_panels():
    plain = (preview, rewrite, grad, model, sleep, refuse, leave, interrupt, fail, die, seed)
    actions = [ActionSpec(run.__name__, run.__name__.capitalize(), run, help="A button.") for run in plain]
    actions += [ActionSpec(name, name, run) for name, run in RESULTS.items()]
    actions.append(ActionSpec("forever", "Forever", forever, seconds=0.5))
    actions.append(ActionSpec("hold", "Hold", hold, seconds=0.5))
    return [PanelSpec("buttons", "Buttons", Buttons, actions=tuple(actions))]
"""

OTHER = """
from backend.api import *


class Nothing(Parameters):
    pass


@hookimpl
def register_panels():
    hello = ActionSpec("hello", "Hello", lambda job: ActionResult(text="hello"))
    return [PanelSpec("greeter", "Greeter", Nothing, actions=(hello,))]
"""
