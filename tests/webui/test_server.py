"""Real processes: launcher, web process and engine, their deaths and their refusals."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
import pytest

from tests.webui.running import ROOT, free_port, settings_for

pytestmark = [
    pytest.mark.server,
    pytest.mark.skipif(os.name != "posix", reason="signals and process groups"),
]

FAKE_SERVER = Path(__file__).with_name("fake_server.py")
LAUNCH = """
import signal, sys
from webui.launcher import ENDED_WELL, Launcher
launcher = Launcher(sys.argv[1:], first_pause=0.05, ended_well=ENDED_WELL)
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda *_: launcher.stop())
sys.exit(launcher.run())
"""


class Easel:
    """The launcher with the real web process and the fake engine."""

    def __init__(self, folder: Path, *more: str) -> None:
        settings = settings_for(folder)
        self.port = settings.port
        self.folder = folder
        arguments = ["--data-dir", str(folder), "--models-dir", str(settings.models_dir), "--port", str(self.port)]
        command = [sys.executable, "-c", LAUNCH, sys.executable, str(FAKE_SERVER), *arguments, *more]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        self.launcher = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=30, trust_env=False)

    def until(self, condition, seconds: float = 60):
        end = time.monotonic() + seconds
        while True:
            with contextlib.suppress(httpx.TransportError):
                if (found := condition()) is not None:
                    return found
            assert time.monotonic() < end, (self.folder / "easel.log").read_text()[-3000:]
            time.sleep(0.05)

    def ready(self):
        def engine():
            state = self.client.get("/api/v1/state").json()
            return state if state["engine"]["state"] == "ready" else None

        return self.until(engine)

    def submit(self, prompt: str, steps: int = 4) -> str:
        body = {"prompt": prompt, "steps": steps, "seed": 7, "width": 128, "height": 128}
        return self.client.post("/api/v1/jobs", json=body).json()["id"]

    def wait(self, job_id: str, *states: str) -> dict:
        def job():
            told = self.client.get(f"/api/v1/jobs/{job_id}").json()
            return told if told["state"] in states else None

        return self.until(job)

    def processes(self) -> tuple[psutil.Process, psutil.Process]:
        web = psutil.Process(self.launcher.pid).children()[0]
        return web, web.children()[0]

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str, str]:
        self.launcher.send_signal(number)
        out, err = self.launcher.communicate(timeout=30)
        return self.launcher.returncode, out, err


@pytest.fixture(scope="module")
def easel(tmp_path_factory):
    easel = Easel(tmp_path_factory.mktemp("easel"))
    easel.ready()
    yield easel
    easel.client.close()
    if easel.launcher.poll() is None:
        easel.end()


def gone(*processes: psutil.Process) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=20)
    return not alive


def test_the_page_and_a_picture(easel):
    assert "gradio" in easel.client.get("/").text
    job = easel.wait(easel.submit("a fox"), "done")
    assert easel.client.get(job["images"][0]["url"]).content.startswith(b"\x89PNG")


def test_the_page_answers_while_a_dead_engine_is_started_again(easel):
    job = easel.submit("slow", steps=8)
    easel.wait(job, "running")
    _, engine = easel.processes()
    engine.kill()
    assert easel.client.get("/health").status_code == 200
    assert len(easel.wait(job, "done")["images"]) == 1


def test_a_killed_web_process_comes_back_with_its_jobs_and_leaves_no_engine(easel):
    waiting = [easel.submit("slow", steps=8), easel.submit("second")]
    easel.wait(waiting[0], "running")
    web, engine = easel.processes()
    web.kill()
    assert gone(web, engine)
    for job in waiting:
        assert len(easel.wait(job, "done")["images"]) == 1


def test_a_second_server_on_the_same_folder_and_one_on_the_same_port_are_refused(easel, tmp_path):
    def refusal(*arguments: str) -> str:
        command = [sys.executable, "-m", "webui.server", "--models-dir", str(tmp_path), *arguments]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert done.returncode == 2
        assert "Traceback" not in done.stderr
        return done.stderr

    folder = refusal("--data-dir", str(easel.folder), "--port", str(free_port()))
    assert folder.startswith("easel: ")
    assert "another" in folder.lower()
    port = refusal("--data-dir", str(tmp_path), "--port", str(easel.port))
    assert f"Port {easel.port} is taken" in port


def test_ctrl_c_ends_everything_and_a_running_job_waits_for_the_next_start(easel):
    job = easel.submit("slow", steps=30)
    easel.wait(job, "running")
    processes = easel.processes()
    code, out, err = easel.end(signal.SIGINT)
    assert code == 0
    assert "Easel is at http://127.0.0.1:" in out
    assert "Traceback" not in err
    assert gone(*processes)
    again = Easel(easel.folder)
    try:
        assert again.wait(job, "done")["images"]
        processes = again.processes()
        again.launcher.kill()  # nobody tells the others
        assert gone(*processes)
    finally:
        again.launcher.kill()
        again.launcher.communicate()
        again.client.close()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--listen"], "easel: --listen lets other machines in, so it demands a token."),
        (["--port", "0"], "easel: Setting port is 0"),
        (["--data-dir", "/dev/null/x"], "easel: The data folder /dev/null/x cannot be written"),
        (["surplus"], "unexpected extra argument"),
    ],
)
def test_wrong_settings_end_with_a_sentence(tmp_path, arguments, sentence):
    command = [sys.executable, "-m", "webui", "--data-dir", str(tmp_path), *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


HEAVY = """
import json, sys
from pathlib import Path
sys.path.insert(0, {root!r})
from backend.settings import load_settings
from webui.gradio_start import prepare_gradio
prepare_gradio(Path({folder!r}) / ".uploads")
from webui.app import build_app
from webui.page import build_page, mount_options
from webui.studio import Studio
settings = load_settings(data_dir=Path({folder!r}), models_dir=Path({models!r}))
studio = Studio(settings)
app = build_app(studio, build_page(studio), mount_options())
studio.count_tokens("xl", "a fox")
heavy = ["torch", "transformers", "diffusers", "safetensors", "matplotlib"]
from gradio import component_meta
print(json.dumps([[m for m in heavy if m in sys.modules], component_meta.create_or_modify_pyi.__module__]))
"""


def test_the_web_process_never_imports_torch_and_gradio_writes_no_stubs(tmp_path):
    settings = settings_for(tmp_path)
    code = HEAVY.format(root=str(ROOT), folder=str(tmp_path), models=str(settings.models_dir))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=90, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [[], "webui.gradio_start"]


def test_nothing_is_sent_anywhere_at_the_start():
    # Every connection that the web process makes would go through socket.connect; loopback to itself is all right.
    code = (
        "import socket\n"
        "def refuse(self, address): raise AssertionError(f'a connection to {address}')\n"
        "socket.socket.connect = refuse; socket.socket.connect_ex = refuse\n"
        "from webui.gradio_start import prepare_gradio\nprepare_gradio()\nimport gradio\n"
        "with gradio.Blocks() as page: gradio.Markdown('x')\n"
        "import threading, time; time.sleep(0.5)\n"
        "print([t.name for t in threading.enumerate()])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=90)
    assert "a connection to" not in done.stderr + done.stdout
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "['MainThread']"


def test_a_port_is_bound_on_loopback_only(tmp_path):
    from webui.server import bind

    listener = bind(settings_for(tmp_path))
    with listener:
        assert listener.getsockname()[0] == "127.0.0.1"
    with bind(settings_for(tmp_path, listen=True, token="x")) as listener:
        assert listener.getsockname()[0] == "0.0.0.0"  # noqa: S104 - asked for, with a token
