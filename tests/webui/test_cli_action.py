"""``easel extension run``: what a panel's button gives, on the terminal."""

from __future__ import annotations

import pytest
from click.testing import CliRunner
from PIL import Image

from backend.approvals import Approvals
from tests.acting import BUTTONS
from tests.builders import tiny_checkpoint
from tests.extending import approve_all, forget_loose_extensions, write_extension
from webui.commands import easel


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    (folder / "models" / "checkpoints").mkdir(parents=True)
    tiny_checkpoint(folder / "models" / "checkpoints" / "tiny-xl.safetensors", "sdxl")
    write_extension(folder / "extensions", "buttons", BUTTONS)
    approve_all(folder / "extensions", Approvals(folder / "extensions.json"))
    yield folder
    forget_loose_extensions()


def run(place, *arguments: str):
    options = ["--data-dir", str(place), "--models-dir", str(place / "models"), "--device", "cpu"]
    return CliRunner().invoke(easel, ["extension", "run", *arguments, *options])


def test_a_button_prints_what_it_gives_and_writes_its_picture(place, tmp_path):
    picture = tmp_path / "there" / "hint.png"
    done = run(place, "buttons.preview", "a fox", "--set", "buttons.level=4", "-o", str(picture), "--width", "64")
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines() == ["buttons: a fox, 64 wide", "level 4", str(picture)]
    assert Image.open(picture).size == (40, 30)
    done = run(place, "buttons.rewrite", "a fox")
    assert done.stdout.splitlines() == ["prompt: a fox, at dusk", "buttons.level=7", "buttons.words=a fox"]


def test_what_goes_wrong_is_a_sentence(place):
    assert "Did you mean 'preview'" in run(place, "buttons.previw").stderr
    assert "has no panel" in run(place, "preview").stderr
    assert "RuntimeError: bang" in run(place, "buttons.fail").stderr
