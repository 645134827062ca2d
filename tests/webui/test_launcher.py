"""The launcher with small children in the web process's place."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from webui.engine_start import ENGINE_COMMAND
from webui.launcher import Launcher

ROOT = Path(__file__).parents[2]


def child(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def run(code: str, again: str | None = None) -> tuple[int, str]:
    messages = io.StringIO()
    launcher = Launcher(child(code), again=child(again) if again else None, messages=messages, first_pause=0.01)
    return launcher.run(), messages.getvalue()


@pytest.mark.parametrize("code", [0, 2])
def test_a_child_that_ends_on_purpose_is_not_started_again(code):
    assert run(f"raise SystemExit({code})") == (code, "")


def test_a_child_that_dies_is_started_again_until_it_ends_well():
    code, messages = run("raise SystemExit(7)", again="raise SystemExit(0)")
    assert code == 0
    assert "died (exit code 7); starting it again" in messages


def test_a_child_that_always_dies_is_given_up():
    code, messages = run("import os; os.kill(os.getpid(), 9)")
    assert code == 1
    assert messages.count("signal SIGKILL") == 5
    assert "giving up" in messages


def test_stopping_closes_the_childs_stdin_and_waits_for_it(tmp_path):
    mark = tmp_path / "ended"
    code = f"import sys, pathlib; sys.stdin.read(); pathlib.Path({str(mark)!r}).touch()"
    launcher = Launcher(child(code))
    threading.Timer(0.3, launcher.stop).start()
    assert launcher.run() == 0
    assert mark.exists()


def test_a_second_stop_ends_a_child_that_does_not_listen():
    launcher = Launcher(child("import time; time.sleep(60)"))
    for seconds in (0.2, 0.4):
        threading.Timer(seconds, launcher.stop).start()
    started = time.monotonic()
    assert launcher.run() == 0
    assert time.monotonic() - started < 10


@pytest.mark.skipif(os.name != "posix", reason="process groups")
def test_what_a_dead_child_leaves_behind_is_ended_too(tmp_path):
    mark = tmp_path / "pid"
    grandchild = f"import os, time, pathlib; pathlib.Path({str(mark)!r}).write_text(str(os.getpid())); time.sleep(60)"
    code = (
        "import subprocess, sys, time, pathlib\n"
        f"subprocess.Popen([sys.executable, '-c', {grandchild!r}])\n"
        f"while not (pathlib.Path({str(mark)!r}).exists() and pathlib.Path({str(mark)!r}).read_text()):\n"
        "    time.sleep(0.01)\n"
        "raise SystemExit(2)\n"
    )
    assert run(code)[0] == 2
    gone = time.monotonic() + 5
    while is_alive(int(mark.read_text())):
        assert time.monotonic() < gone
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_end_launcher_and_child(number, tmp_path):
    # In the web process's place: a stand-in for webui.server on another path.
    package = tmp_path / "webui"
    package.mkdir()
    for name in ("__init__.py", "launcher.py"):
        (package / name).write_text((ROOT / "webui" / name).read_text())
    (package / "server.py").write_text(
        "import os, sys\nprint(os.getpid(), *sys.argv[1:], flush=True)\nsys.stdin.read()\nprint('ended', flush=True)\n"
    )
    code = "import sys; from webui.launcher import launch; sys.exit(launch(['--port', '1']))"
    # The children import nothing from the folder they stand in, so the path says where the stand-in is.
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    process = subprocess.Popen(child(code), cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True)
    pid, *arguments = process.stdout.readline().split()
    assert arguments == ["--stop-with-stdin", "--port", "1"]
    process.send_signal(number)
    rest, _ = process.communicate(timeout=10)
    assert rest == "ended\n"
    assert process.returncode == 0
    assert not is_alive(int(pid))


def test_the_launcher_imports_nothing_that_takes_time():
    code = (
        "import sys; import webui.cli, webui.launcher; "
        "print([m for m in ('pydantic', 'click', 'gradio', 'torch', 'asyncio') if m in sys.modules])"
    )
    assert subprocess.run(child(code), cwd=ROOT, capture_output=True, text=True, check=True).stdout == "[]\n"


def test_what_lies_in_the_current_folder_is_not_imported(tmp_path):
    (tmp_path / "backend.py").write_text("raise SystemExit(77)")
    (tmp_path / "torch.py").write_text("raise SystemExit(77)")
    told = subprocess.run(
        [*ENGINE_COMMAND], cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, env=here(tmp_path)
    )
    assert (told.returncode, b'"type":"ready"' in told.stdout) == (0, True), told.stderr[-500:]


def here(folder: Path) -> dict[str, str]:
    """The environment in which this checkout is imported, wherever a child stands."""
    data = {"EASEL_DATA_DIR": str(folder), "EASEL_MODELS_DIR": str(ROOT / "models"), "EASEL_NO_EXTENSIONS": "true"}
    return {**os.environ, "PYTHONPATH": str(ROOT), **data}
