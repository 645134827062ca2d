"""The command around the benchmark: its options, its sentences, and the page that it starts and ends."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.webui.running import ROOT, settings_for
from webui import start_up
from webui.cli import starts_page
from webui.commands import easel
from webui.start_up import measure_start_up


def test_bench_is_a_subcommand():
    assert not starts_page(["bench", "--json"])
    assert "bench" in CliRunner().invoke(easel, ["--help"]).output


def test_its_help_imports_neither_gradio_nor_torch():
    code = (
        "import sys; sys.argv = ['easel', 'bench', '--help']\n"
        "from webui.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "assert not [m for m in ('torch', 'gradio', 'fastapi', 'transformers', 'diffusers') if m in sys.modules]\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Usage: easel bench" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--against", "fooocus"], "'fooocus' is not one of 'diffusers', 'no-extensions'"),
        (["--width", "7"], "easel: Width (width) is 7, which cannot be used."),
        (["--rounds", "0"], "0 is not in the range"),
        (["--threads", "-1"], "easel: Setting threads is '-1'"),
    ],
)
def test_wrong_options_are_a_sentence_before_anything_is_measured(arguments: list[str], sentence: str):
    done = CliRunner().invoke(easel, ["bench", *arguments])
    assert done.exit_code == 2
    assert sentence.replace("'-1'", "-1") in done.stderr
    assert "Traceback" not in done.output


def test_without_a_checkpoint_there_is_a_sentence(tmp_path: Path):
    folder = str(tmp_path)
    done = CliRunner().invoke(easel, ["bench", "--no-start-up", "--data-dir", folder, "--models-dir", folder])
    assert done.exit_code == 2
    assert done.stderr.splitlines()[-1].startswith("easel: ")


def test_json_is_the_whole_report_and_nothing_else(tmp_path: Path):
    from backend.engine.bench import report_from_json
    from tests.builders import tiny_checkpoint

    (tmp_path / "checkpoints").mkdir()
    tiny_checkpoint(tmp_path / "checkpoints" / "tiny.safetensors", "sdxl")
    folder = str(tmp_path)
    done = CliRunner().invoke(
        easel,
        ["bench", "--json", "--no-start-up", "--seconds", "0", "--width", "64", "--height", "64", "--dtype", "float32",
         "--data-dir", folder, "--models-dir", folder],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    report = report_from_json(json.loads(done.stdout))
    assert (report.checkpoint, report.machine.dtype, report.start_up, report.peer) == ("tiny", "float32", None, None)


@pytest.mark.server
def test_start_up_is_that_of_the_real_page_which_is_gone_afterwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    ports: list[int] = []

    def remembered() -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            ports.append(probe.getsockname()[1])
        return ports[-1]

    monkeypatch.setattr(start_up, "_free_port", remembered)
    monkeypatch.setenv("EASEL_LISTEN", "true")  # would demand a token
    health, page = measure_start_up(settings_for(tmp_path))
    assert 0 < health <= page
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"http://127.0.0.1:{ports[0]}/health", timeout=5)
