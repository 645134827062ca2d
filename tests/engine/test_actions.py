"""Buttons of panels in the engine: what an action gives, and what becomes of one that misbehaves."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator

import pytest
import torch
from PIL import Image

from backend.approvals import Approvals
from backend.engine.actions import ActionThread, run_action
from backend.engine.engine import Engine
from backend.engine.torch_guard import TorchGuard
from backend.errors import BadRequest, NotFound
from backend.extending import ActionResult, ActionSpec, PanelSpec
from backend.parameters import Parameters
from backend.plugins import ExtensionFailed
from backend.request import request_to_json
from backend.settings import load_settings
from tests.acting import BUTTONS, OTHER
from tests.engine.conftest import ask
from tests.extending import approve_all, forget_loose_extensions, write_extension


@pytest.fixture(scope="module")
def acting(models_dir, tmp_path_factory) -> Iterator[Engine]:
    folder = tmp_path_factory.mktemp("acting")
    write_extension(folder / "extensions", "buttons", BUTTONS)
    write_extension(folder / "extensions", "other", OTHER)
    settings = load_settings(data_dir=folder, models_dir=models_dir, device="cpu", dtype="float32")
    approve_all(folder / "extensions", Approvals(settings.approvals))
    yield Engine(settings)
    forget_loose_extensions()


def press(engine: Engine, name: str, panel: str = "buttons", **fields):
    return run_action(engine.extensions, engine.inputs, panel, name, ask("tiny-xl", **fields))


def test_an_action_gives_a_picture_a_text_and_notes(acting) -> None:
    level = {"buttons": {"version": 1, "values": {"level": 3}}}
    done = press(acting, "preview", extensions=level)
    assert (done.text, done.notes) == ("level 3", ("buttons: a fox, 64 wide",))
    image = acting.inputs.load(done.picture)
    assert (image.size, image.getpixel((0, 0))) == ((40, 30), (60, 60, 60))
    assert press(acting, "preview").text == "level 2"  # a panel that is not named has its defaults


def test_an_action_gives_values_and_fields_for_the_page(acting) -> None:
    done = press(acting, "rewrite")
    assert done.values == {"level": 7, "words": "a fox"}
    assert done.fields == {"prompt": "a fox, at dusk"}


def test_an_action_runs_without_gradients(acting) -> None:
    assert press(acting, "grad").text == "False"
    assert torch.is_grad_enabled()


def test_an_action_knows_the_checkpoint_and_where_models_lie(acting, models_dir) -> None:
    assert press(acting, "model").text == f"sdxl in {models_dir.name}"


@pytest.mark.parametrize(
    ("name", "words"),
    [("fail", "RuntimeError: bang"), ("leave", "SystemExit: 3"), ("nothing", "a NoneType instead of an ActionResult"),
     ("no_picture", "a str"), ("no_text", "text is a int"), ("bad_value", "Level"), ("unknown_value", "'volume'"),
     ("bad_field", "steps"), ("unknown_field", "'extensions'"), ("seed", "random state")],
)  # fmt: skip
def test_what_an_action_does_wrong_names_its_extension(acting, name, words) -> None:
    before = torch.random.get_rng_state()
    with pytest.raises(ExtensionFailed, match="extension buttons") as caught:
        press(acting, name)
    assert words in caught.value.what
    assert torch.equal(before, torch.random.get_rng_state())


def test_an_action_may_refuse_in_its_own_words_and_unknown_names_get_the_nearest(acting) -> None:
    with pytest.raises(BadRequest, match="nothing to preview"):
        press(acting, "refuse")
    with pytest.raises(NotFound, match="Did you mean 'preview'"):
        press(acting, "previw")
    with pytest.raises(NotFound, match="Did you mean 'buttons'"):
        press(acting, "preview", panel="button")


def test_an_action_that_hangs_is_left_behind_and_others_go_on(acting) -> None:
    orders: queue.SimpleQueue = queue.SimpleQueue()
    events: queue.SimpleQueue = queue.SimpleQueue()
    ActionThread(acting.extensions, acting.inputs, events.put).serve(orders)
    request = request_to_json(ask("tiny-xl"))
    for number, (panel, name) in enumerate(
        [("buttons", "forever"), ("buttons", "preview"), ("greeter", "hello"), ("greeter", "hullo")]
    ):
        orders.put({"id": str(number), "panel": panel, "name": name, "request": request})
    told = [events.get(timeout=30) for _ in range(4)]
    assert [event.action for event in told] == ["0", "1", "2", "3"]
    assert "Forever of the extension buttons gave no answer within 0.5 seconds" in told[0].what
    assert "has not returned yet" in told[1].what
    assert told[2].text == "hello"
    assert told[3].code == "not_found"


def test_a_keyboard_interrupt_of_an_action_is_answered(acting) -> None:
    orders: queue.SimpleQueue = queue.SimpleQueue()
    events: queue.SimpleQueue = queue.SimpleQueue()
    acting_thread = ActionThread(acting.extensions, acting.inputs, events.put)
    acting_thread.serve(orders)
    orders.put({"id": "x", "panel": "buttons", "name": "interrupt", "request": request_to_json(ask("tiny-xl"))})
    assert "The extension buttons failed in its action interrupt" in events.get(timeout=30).what


def test_shared_state_that_changed_beside_other_work_is_put_back_and_nobody_is_blamed() -> None:
    guard, go_on = TorchGuard(), threading.Event()
    inside = threading.Event()

    def job() -> None:
        with guard.occupied():
            inside.set()
            go_on.wait(10)

    thread = threading.Thread(target=job)
    thread.start()
    inside.wait(10)
    before = torch.random.get_rng_state()
    with guard("alpha", "its action x"):
        torch.manual_seed(3)
    assert torch.equal(before, torch.random.get_rng_state())
    with pytest.raises(ExtensionFailed, match="grad mode"), guard("alpha", "its action x"):  # a thread's own
        torch.set_grad_enabled(False)
    go_on.set()
    thread.join()
    with pytest.raises(ExtensionFailed, match="random state"), guard("alpha", "its action x"):
        torch.manual_seed(3)
    assert torch.is_grad_enabled()


def test_actions_have_names_of_their_own_and_a_patience_with_an_end() -> None:
    def run(_job) -> ActionResult:
        return ActionResult(picture=Image.new("RGB", (8, 8)))

    with pytest.raises(ValueError, match="no name for an action"):
        ActionSpec("Pre view", "Preview", run)
    with pytest.raises(ValueError, match="at most 300"):
        ActionSpec("preview", "Preview", run, seconds=1000)
    two = (ActionSpec("preview", "Preview", run), ActionSpec("preview", "Again", run))
    with pytest.raises(ValueError, match="two actions of one name"):
        PanelSpec("p", "P", Parameters, actions=two)
