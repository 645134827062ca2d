"""An engine process without torch: speaks the real protocol, and does what the prompt says.

Words in the prompt: ``slow`` (0.1 s a step), ``crash`` (dies in step 2), ``crash-once``, ``segfault``, ``hang`` (says
nothing more), ``hook`` (a hook runs for seconds), ``fail``, ``chatter`` (a line on stdout that is no event), ``deaf``
(does not hear a cancel), ``gate`` (waits in step 2 until there is a file ``open`` in the data folder).
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
import time
from pathlib import Path

from PIL import Image

from backend.events import (
    Done,
    Failed,
    HookRuns,
    ImageSaved,
    Note,
    Plan,
    Planned,
    Ready,
    Residents,
    Step,
    event_to_line,
)
from backend.records.outputs import Outputs
from backend.records.registry import core_registry
from backend.request import parse_request

KEYS = {"start": "from this share of the steps on", "region": "part of the picture"}
TAGS = [{"name": name, "label": "LoRA", "folder": "loras", "owner": "lora", "keys": KEYS} for name in ("lora", "lyco")]
PIXEL = "/9j/2Q=="  # start and end of a JPEG


def tell(event):
    sys.stdout.buffer.write(event_to_line(event))
    sys.stdout.buffer.flush()


class FakeEngine:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.outputs = Outputs(folder / "outputs")
        self.jobs: queue.SimpleQueue = queue.SimpleQueue()
        self.cancelled: set[str] = set()

    def read(self) -> None:
        for line in sys.stdin.buffer:
            order = json.loads(line)
            if order["type"] == "job":
                self.jobs.put(order)
            else:
                self.cancelled.add(order["job"])
        self.jobs.put(None)

    def run(self) -> None:
        tell(Ready(registry=core_registry() | {"prompt_tags": TAGS}, device="fake", dtype="float32"))
        threading.Thread(target=self.read, daemon=True).start()
        while (order := self.jobs.get()) is not None:
            self.generate(order["id"], order["request"])

    def generate(self, job: str, request: dict) -> None:
        words = request["prompt"].split()
        steps = request["steps"] or 4
        tell(Residents(parts=("fake: U-Net (1 MiB)",), bytes=2**20))
        plan = Plan(loads=("fake: U-Net (1 MiB)",), needs_bytes=2**20, model_calls=steps, seconds=1.0)
        tell(Planned(job=job, plan=plan))
        if "chatter" in words:
            os.write(1, b"Loading weights: 100%\n")
        if "fail" in words:
            tell(Failed(job=job, code="out_of_memory", what="There is too little memory.", todo="Use a smaller size."))
            return
        for step in range(1, steps + 1):
            if job in self.cancelled and "deaf" not in words:
                tell(Failed(job=job, code="cancelled", what="The job was stopped."))
                return
            if step == 2:
                self.misbehave(words)
                while "gate" in words and job not in self.cancelled and not (self.folder / "open").exists():
                    time.sleep(0.02)
            time.sleep(0.1 if "slow" in words else 0.0)
            tell(Step(job=job, step=step, steps=steps, batch=0, batches=1, seconds_left=0.1, preview=PIXEL))
        for index in range(request["batch_size"] * request["batch_count"]):
            self.save(job, index, request)
        tell(Note(job=job, text="Made by the fake engine."))
        tell(Done(job=job, seconds=0.1))

    def misbehave(self, words: list[str]) -> None:
        mark = self.folder / "crashed"
        if "crash" in words:
            sys.stderr.write("something went badly wrong\n")
            sys.stderr.flush()
            os._exit(3)
        if "crash-once" in words and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if "segfault" in words:
            os.kill(os.getpid(), signal.SIGSEGV)
        if "hook" in words:
            tell(HookRuns(owner="sleepy", hook="patch_job"))
        if "hang" in words:
            time.sleep(3600)

    def save(self, job: str, index: int, request: dict) -> None:
        resolved = parse_request({**request, "width": request["width"] or 128, "height": request["height"] or 128})
        image = Image.new("RGB", (resolved.width, resolved.height), (index * 16 % 256, 80, 200))
        saved = self.outputs.save(image, job=job, index=index, request=resolved, facts={"device": "fake"})
        tell(ImageSaved(job=job, index=index, path=str(saved.path), seed=request["seed"] + index, width=resolved.width,
                        height=resolved.height, parameters=saved.parameters))  # fmt: skip


if __name__ == "__main__":
    sys.stderr.write("the fake engine is up\n")
    FakeEngine(Path(os.environ["EASEL_DATA_DIR"])).run()
