"""Networks of extensions' own: within the budget beside a job, never in its way, and gone when they have to be."""

from __future__ import annotations

import gc
import logging
import queue
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from backend.approvals import Approvals
from backend.engine.actions import ActionThread, run_action
from backend.engine.engine import Engine
from backend.errors import Cancelled, ModelCorrupt, NotFound, OutOfMemory
from backend.events import ActionDone, ActionFailed, Step
from backend.importing import LOOSE_PACKAGE
from backend.plugins import ExtensionFailed
from backend.request import request_to_json
from backend.settings import load_settings
from tests.engine.conftest import ask
from tests.extending import approve_all, write_extension

MIB = 2**20
#: Whether the tiny SDXL's denoiser (7.8 MiB) and the captioner (2) fit together; its text encoders take 2.1, the VAE 1.
ROOMY, TIGHT = 11 * MIB, 9 * MIB
CAPTIONS = """
import threading
from torch import nn
import torch
from backend.api import *

class Captions(Parameters):
    net: str = text("captioner", label="Network")

inside, go_on = threading.Event(), threading.Event()
built, kept = [], []

def build(tensors):
    built.append(sorted(tensors))
    network = nn.Linear(*reversed(tensors["weight"].shape), bias=False)
    network.load_state_dict(tensors, assign=True)
    return network

def careless(tensors):
    raise RuntimeError("this is no captioner")

def network_of(job):
    return job.own_network("captions", job.values["captions"].net, build)

def describe(job):
    network = network_of(job)
    kept[:] = [network]
    inside.set()
    assert go_on.wait(300)
    total = network(torch.ones(network.in_features)).sum()
    return ActionResult(text=f"{total:.0f} in {network.weight.dtype}")

def tell(job):
    return ActionResult(text=f"{job.files('captions')} {job.shapes('captions', job.values['captions'].net)}")

def fail(job):
    job.own_network("captions", "captioner", careless)

@hookimpl
def register_panels():
    actions = [ActionSpec(run.__name__, run.__name__, run, seconds=300) for run in (describe, tell, fail)]
    actions.append(ActionSpec("hang", "Hang", describe, seconds=0.3))
    return [PanelSpec("captions", "Captions", Captions, actions=tuple(actions))]

@hookimpl
def expand_job(job):
    network_of(job)

loaded = []

@hookimpl
def model_loaded(name):
    loaded.append((name, threading.get_ident()))
"""


@pytest.fixture
def here(models_dir: Path, tmp_path: Path) -> Iterator[Engine]:
    """An engine with nothing in memory, room for a denoiser and a captioner of 2 MiB."""
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "checkpoints").symlink_to(models_dir / "checkpoints")
    (folder / "captions").mkdir()
    save_file({"weight": torch.ones(1024, 512)}, folder / "captions" / "captioner.safetensors")
    save_file({"weight": torch.ones(1024, 512).half()}, folder / "captions" / "half.safetensors")
    save_file({"weight": torch.ones(1024, 4096)}, folder / "captions" / "large.safetensors")
    (folder / "captions" / "cut.safetensors").write_bytes(b"x" * 100)
    settings = load_settings(data_dir=tmp_path, models_dir=folder, device="cpu", dtype="float32")
    write_extension(tmp_path / "extensions", "captions", CAPTIONS)
    approve_all(tmp_path / "extensions", Approvals(settings.approvals))
    engine = Engine(settings)
    assert engine.extensions.plugins.extensions["captions"].status == "on"
    budget(engine, ROOMY)
    yield engine
    module(engine).go_on.set()
    for name in [name for name in sys.modules if name.split(".")[0] == LOOSE_PACKAGE]:
        del sys.modules[name]


def budget(engine: Engine, size: int) -> None:
    engine.manager.policy = replace(engine.policy, budget_bytes=size, low_memory="off")


def module(engine: Engine):
    return engine.extensions.plugins.extensions["captions"].module


def panel(net: str = "captioner"):
    return {"captions": {"version": 1, "values": {"net": net}}}


def press(engine: Engine, name: str = "tell", net: str = "captioner"):
    return run_action(engine.extensions, engine.inputs, "captions", name, ask("tiny-xl", extensions=panel(net)))


class Pressed:
    """An action at work as the engine process runs it, beside whatever this thread does."""

    def __init__(self, engine: Engine, name: str = "describe", net: str = "captioner") -> None:
        self._told: queue.SimpleQueue[ActionDone | ActionFailed] = queue.SimpleQueue()
        orders: queue.SimpleQueue = queue.SimpleQueue()
        ActionThread(engine.extensions, engine.inputs, self._told.put).serve(orders)
        request = request_to_json(ask("tiny-xl", extensions=panel(net)))
        orders.put({"id": "a", "panel": "captions", "name": name, "request": request})
        self._module = module(engine)

    def inside(self) -> Pressed:
        assert self._module.inside.wait(300)
        return self

    def answer(self) -> ActionDone | ActionFailed:
        self._module.go_on.set()
        return self.told()

    def told(self) -> ActionDone | ActionFailed:
        return self._told.get(timeout=300)


def when_a_job_waits(act: Callable[[], object]) -> logging.Handler:
    """Does something as soon as a job has begun to wait for room."""

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "waits for" in record.getMessage():
                act()

    handler = Listener()
    logger = logging.getLogger("backend.engine.models")
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    return handler


@pytest.fixture
def on_wait() -> Iterator[Callable[[Callable[[], object]], None]]:
    handlers: list[logging.Handler] = []
    yield lambda act: handlers.append(when_a_job_waits(act))
    for handler in handlers:
        logging.getLogger("backend.engine.models").removeHandler(handler)


def alive() -> int:
    """Bytes of all parameters that anybody still refers to, mapped or not."""
    gc.collect()
    sizes = {
        each.untyped_storage().data_ptr(): each.untyped_storage().nbytes()
        for each in gc.get_objects()
        if type(each) is nn.Parameter and each.device.type == "cpu"
    }
    return sum(sizes.values())


def peak_of_steps(peaks: list[int], before: int) -> Callable[[object], None]:
    return lambda event: peaks.append(alive() - before) if isinstance(event, Step) else None


def test_an_action_gets_its_network_beside_a_job_and_the_picture_is_the_same(here: Engine) -> None:
    """The text encoders, which the job has done with, leave for it; all that is alive fits the budget at every step."""
    before = alive()
    plain = here.generate(ask("tiny-xl")).pictures[0].image.tobytes()
    here.manager.drop_all()
    actions: list[Pressed] = []
    peaks: list[int] = []

    def on_event(event: object) -> None:
        if isinstance(event, Step):
            if event.step == 1:
                actions.append(Pressed(here).inside())
            peaks.append(alive() - before)

    busy = here.generate(ask("tiny-xl"), on_event).pictures[0].image.tobytes()
    assert busy == plain
    answer = actions[0].answer()
    assert answer.text == f"{1024 * 512} in torch.float32"
    assert 9 * MIB < max(peaks) <= ROOMY
    assert sum(key.bytes for key in here.manager.residents) <= ROOMY
    assert "captioner.safetensors" in {key.name for key in here.manager.residents}
    press(here)
    assert len(module(here).built) == 1


def test_an_action_is_refused_what_does_not_fit_beside_a_job_which_goes_on(here: Engine) -> None:
    budget(here, TIGHT)
    plain = here.generate(ask("tiny-xl")).pictures[0].image.tobytes()
    told: list[ActionDone | ActionFailed] = []

    def on_event(event: object) -> None:
        if isinstance(event, Step) and event.step == 1:
            denoiser = here.manager.denoiser(here.catalog.checkpoint("tiny-xl"))
            told.append(Pressed(here).answer())
            assert here.manager.denoiser(here.catalog.checkpoint("tiny-xl")) is denoiser

    assert here.generate(ask("tiny-xl"), on_event).pictures[0].image.tobytes() == plain
    assert told[0].code == "out_of_memory"
    assert told[0].what.startswith("captioner.safetensors takes 2 MiB for describe of the extension captions.")
    assert "when the running job is finished" in told[0].todo
    assert Pressed(here).answer().text  # now nothing is in use


def test_a_job_that_needs_the_room_waits_until_the_action_returns(here: Engine, on_wait) -> None:
    before = alive()
    plain = here.generate(ask("tiny-xl")).pictures[0].image.tobytes()
    here.manager.drop_all()
    budget(here, TIGHT)
    pressed = Pressed(here).inside()
    on_wait(module(here).go_on.set)
    peaks: list[int] = []
    done = here.generate(ask("tiny-xl"), peak_of_steps(peaks, before))
    assert done.pictures[0].image.tobytes() == plain
    assert done.notes == (
        "The job waited for describe of the extension captions, which had the memory that tiny-xl needed.",
    )
    assert max(peaks) <= TIGHT
    assert pressed.answer().text.startswith(str(1024 * 512))


def test_work_that_is_ended_from_outside_loses_its_network_and_the_job_that_waits_goes_on(
    here: Engine, on_wait
) -> None:
    before = alive()
    budget(here, TIGHT)
    peaks: list[int] = []
    with here.networks.use(beside="an action") as use:
        kept = here.networks.load(use, "captions", "captioner", module(here).build)
        on_wait(lambda: here.networks.end(use))
        here.generate(ask("tiny-xl"), peak_of_steps(peaks, before))
    assert kept.weight.numel() == 0
    assert max(peaks) <= TIGHT


def test_an_action_that_hangs_is_ended_so(here: Engine) -> None:
    answer = None
    while not module(here).inside.is_set():  # on a busy machine its time may be over before it has its network
        answer = Pressed(here, "hang").told()
    assert answer is not None
    assert "gave no answer within 0.3 seconds" in answer.what
    assert module(here).kept[0].weight.numel() == 0
    assert here.manager.residents == ()


def test_a_waiting_job_can_be_cancelled(here: Engine, on_wait) -> None:
    budget(here, TIGHT)
    pressed = Pressed(here).inside()
    cancel = threading.Event()
    on_wait(cancel.set)
    with pytest.raises(Cancelled):
        here.generate(ask("tiny-xl"), cancel=cancel)
    assert pressed.answer().text
    here.generate(ask("tiny-xl"))


def test_a_load_that_fails_names_the_file_and_leaves_everything_as_it_was(here: Engine) -> None:
    budget(here, 14 * MIB)
    here.generate(ask("tiny-xl"))
    there = set(here.manager.residents)
    with pytest.raises(ModelCorrupt, match=r"cut\.safetensors"):
        press(here, net="cut")
    with pytest.raises(ExtensionFailed, match="of captioner in models/captions: RuntimeError: this is no captioner"):
        press(here, "fail")
    with pytest.raises(NotFound, match="Did you mean 'captioner'"):
        press(here, net="captoner")
    with pytest.raises(OutOfMemory, match=r"large\.safetensors takes 16 MiB .* may use 14 MiB for models"):
        press(here, "describe", net="large")
    assert set(here.manager.residents) == there
    with pytest.raises(NotFound, match="Folder of models/"), here.networks.use() as use:
        here.networks.load(use, "../captions", "captioner", module(here).build)


def test_files_and_shapes_are_told_from_headers_and_half_precision_counts_as_what_it_becomes(here: Engine) -> None:
    assert press(here, net="half").text == "('captioner', 'cut', 'half', 'large') {'weight': (1024, 512)}"
    module(here).go_on.set()
    assert press(here, "describe", net="half").text == f"{1024 * 512} in torch.float32"
    assert here.manager.residents[-1].bytes == 2 * MIB


def test_what_leaves_is_emptied_though_the_extension_keeps_it(here: Engine) -> None:
    before = alive()
    module(here).go_on.set()
    press(here, "describe")
    here.manager.drop_all()
    assert alive() <= before
    assert press(here, "describe").text.startswith(str(1024 * 512))


def test_two_that_ask_for_one_network_at_once_load_it_once(here: Engine) -> None:
    """The second waits for the first; a job's hook and an action share it."""
    first, second = threading.Event(), threading.Event()
    builds: list[int] = []

    def build(tensors: dict[str, torch.Tensor]) -> nn.Module:
        builds.append(1)
        first.set()
        assert second.wait(60)
        return nn.ParameterDict(tensors)

    found: list[nn.Module] = []

    def load() -> None:
        with here.networks.use() as use:
            found.append(here.networks.load(use, "captions", "captioner", build))

    threads = [threading.Thread(target=load) for _ in range(2)]
    threads[0].start()
    assert first.wait(60)
    threads[1].start()
    second.set()
    for thread in threads:
        thread.join(60)
    assert len(builds) == 1
    assert found[0] is found[1]


def test_one_that_another_has_loaded_while_it_waited_for_room_is_taken_as_it_is(here: Engine) -> None:
    """A job waits for an action, which meanwhile loads what the job is waiting for."""
    budget(here, 3 * MIB)
    builds: list[int] = []
    is_waiting = threading.Event()

    def build(tensors: dict[str, torch.Tensor]) -> nn.Module:
        builds.append(1)
        return nn.ParameterDict(tensors)

    found: list[nn.Module] = []

    def job() -> None:
        with here.networks.use(check=is_waiting.set) as use:
            found.append(here.networks.load(use, "captions", "half", build))

    with here.networks.use(beside="an action") as use:
        here.networks.load(use, "captions", "captioner", build)
        thread = threading.Thread(target=job)
        thread.start()
        assert is_waiting.wait(60)
        here.manager.release(use)
        found.append(here.networks.load(use, "captions", "half", build))
    thread.join(60)
    assert found[0] is found[1]
    assert len(builds) == 2  # the captioner, and the half once


def test_work_that_was_ended_from_outside_gets_nothing_more(here: Engine) -> None:
    with here.networks.use(beside="an action") as use:
        here.networks.load(use, "captions", "captioner", module(here).build)
        here.networks.end(use)
        assert here.manager.residents == ()
        for _ in range(2):  # not in memory, and in memory
            with pytest.raises(OutOfMemory, match="an action is over"):
                here.networks.load(use, "captions", "captioner", module(here).build)
            with here.networks.use() as other:
                here.networks.load(other, "captions", "captioner", module(here).build)


def test_a_new_engine_begins_with_nothing_and_gives_the_same(here: Engine) -> None:
    module(here).go_on.set()
    told = press(here, "describe").text
    again = Engine(here.settings)
    assert again.manager.residents == ()
    module(again).go_on.set()
    assert press(again, "describe").text == told
    assert len(again.manager.residents) == 1


def test_observers_hear_of_what_an_action_loaded_when_the_next_job_begins_in_its_thread(here: Engine) -> None:
    module(here).go_on.set()
    pressed = Pressed(here)
    assert pressed.answer().text
    assert module(here).loaded == []
    here.generate(ask("tiny-xl"))
    told = module(here).loaded
    assert told[0] == ("captioner.safetensors", threading.get_ident())
    assert {thread for _, thread in told} == {threading.get_ident()}


def test_a_network_of_a_hook_may_leave_when_the_hook_returns(here: Engine) -> None:
    """``expand_job`` loads one before the job's own parts, which then take its place."""
    budget(here, TIGHT)
    before = alive()
    peaks: list[int] = []
    here.generate(ask("tiny-xl", extensions=panel()), peak_of_steps(peaks, before))
    assert max(peaks) <= TIGHT
    assert module(here).built == [["weight"]]
