"""``easel extension``: the list, approvals, and what authors get."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from backend.approvals import Approvals
from tests.extending import forget_loose_extensions, write_extension
from webui.commands import easel

ROOT = Path(__file__).parents[2]
HEAD = "from backend.api import PanelSpec, Parameters, hookimpl, number\n\n"


@pytest.fixture(autouse=True)
def forget_modules():
    yield
    forget_loose_extensions()


def run(*arguments: str):
    return CliRunner().invoke(easel, ["extension", *arguments])


def test_list_enable_and_disable(tmp_path):
    write_extension(tmp_path / "extensions", "loose", "")
    place = ("--data-dir", str(tmp_path))

    def status() -> dict[str, str]:
        return {row["name"]: row["status"] for row in json.loads(run("list", "--json", *place).stdout)["extensions"]}

    assert status()["loose"] == "new"
    assert status()["guidance"] == "on"
    assert run("enable", "loose", *place).exit_code == 0
    assert run("disable", "guidance", *place).exit_code == 0
    assert (status()["loose"], status()["guidance"]) == ("on", "off")
    assert Approvals(tmp_path / "extensions.json").read()["off"] == ["guidance"]
    assert "ships with Easel" in run("list", *place).stdout
    done = run("enable", "lose", *place)
    assert done.exit_code == 2
    assert "Did you mean 'loose'" in done.stderr


def test_a_reader_that_has_seen_enough_is_no_fault(tmp_path):
    """As with ``easel extension list | head -1``."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "webui", "extension", "list", "--data-dir", str(tmp_path)]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False, cwd=ROOT)
    os.close(writing)
    assert done.stderr == ""


def test_a_new_extension_passes_its_check_and_its_test(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run("new", "film_grain").exit_code == 0
    done = run("check", str(tmp_path / "film_grain"))
    assert done.exit_code == 0, done.output
    assert "0 failed" in done.output.splitlines()[-1]
    assert "panel film_grain on tiny-sd3: undo is exact" in done.output
    options = ["-q", "-p", "no:cacheprovider", "-p", "backend.testing.plugin"]
    command = [sys.executable, "-m", "pytest", *options, str(tmp_path / "film_grain")]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    tested = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240, env=environment)
    assert "4 passed" in tested.stdout, tested.stdout
    assert run("new", "film_grain").exit_code == 2
    assert "no name for an extension" in run("new", "Film-Grain").stderr
    assert "An extension called lora ships with Easel" in run("new", "lora").stderr


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("import nowhere_to_be_found\n", "It cannot be imported"),
        ("", "hooks: it implements some: it implements none"),
        (HEAD + "@hookimpl\ndef patch_jib(job): ...\n", "patch_jib is no hook"),
        (HEAD + "@hookimpl\ndef patch_job(job, mood): ...\n", "patch_job does not fit: it is not given 'mood'"),
        (
            HEAD + "class P(Parameters):\n    a: float = number(3.0, low=0, high=1, label='A')\n\n"
            "@hookimpl\ndef register_panels():\n    return [PanelSpec('p', 'P', P)]\n",
            "not take its own default 3.0",
        ),
    ],
)
def test_check_names_what_is_wrong(tmp_path, code, sentence):
    done = run("check", str(write_extension(tmp_path, "faulty", code)))
    assert done.exit_code == 1
    assert sentence in done.output


def test_a_new_web_side_passes_its_check_and_its_test_and_what_is_wrong_with_one_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run("new", "tally", "--web").exit_code == 0
    done = run("check", str(tmp_path / "tally"))
    assert done.output.endswith("tally: 3 passed, 0 failed, 0 not applicable.\n"), done.output
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path / "tally")]
    tested = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert "1 passed" in tested.stdout, tested.stdout
    tab = "from webui.api import *\n\n@hookimpl\ndef register_tabs():\n    return [TabSpec({!r}, 'X', {})]\n"
    for name, code, words in (
        ("undrawn", tab.format("undrawn", "lambda context: 1 / 0"), "The tab 'X' failed: ZeroDivisionError"),
        ("taken", tab.format("models", "print"), "'models' is a name that Easel's core has already"),
        ("idle", "", "implements no hook"),
        ("broken", "import nothing_of_that_name", "nothing_of_that_name"),
    ):
        home = write_extension(tmp_path / "wrong", name, code, side="web")
        done = run("check", str(home))
        assert done.exit_code == 1, name
        assert words in done.output
