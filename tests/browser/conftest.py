"""A headless Chromium, and real web processes to look at: one with the fake engine, one with the real one."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, TimeoutError, sync_playwright

from tests.browser.waiting import until
from tests.formats.files import published, write_sparse

ROOT = Path(__file__).parents[2]
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
START = 90  # seconds for a server on a busy machine


@dataclass(frozen=True)
class Site:
    """A running web process."""

    origin: str
    data_dir: Path
    process: subprocess.Popen[bytes]

    def jobs(self) -> list[dict]:
        return httpx.get(f"{self.origin}/api/v1/state", trust_env=False).json()["jobs"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def serving(folder: Path, command: list[str], port: int | None = None) -> Iterator[Site]:
    """A web process on ``folder`` (data and models), ended like Ctrl+C ends it."""
    port = port or free_port()
    options = ["--data-dir", str(folder), "--models-dir", str(folder / "models"), "--port", str(port)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment |= {"EASEL_HASH_MODELS": "on use"}  # the files are holes of gigabytes
    with (folder / "console.txt").open("ab") as console:
        process = subprocess.Popen([sys.executable, *command, *options], env=environment, stdout=console,
                                   stderr=subprocess.STDOUT, cwd=ROOT, stdin=subprocess.PIPE)  # fmt: skip
    site = Site(f"http://127.0.0.1:{port}", folder, process)
    try:
        end = time.monotonic() + START
        while True:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{site.origin}/health", trust_env=False).status_code == 200:
                    break
            assert process.poll() is None, (folder / "console.txt").read_text()
            assert time.monotonic() < end, (folder / "console.txt").read_text()
            time.sleep(0.1)
        yield site
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


FAKE = [str(ROOT / "tests/webui/fake_server.py")]
REAL = ["-m", "webui.server"]


@pytest.fixture(scope="session")
def site(tmp_path_factory) -> Iterator[Site]:
    """The real web process with an engine that only pretends: what the page does is the same."""
    folder = tmp_path_factory.mktemp("fake")
    checkpoints = folder / "models" / "checkpoints"
    checkpoints.mkdir(parents=True)
    write_sparse(checkpoints / "a-xl.safetensors", published("sdxl_base"))
    write_sparse(checkpoints / "b-sd3.safetensors", published("sd3_medium_incl_clips_t5xxl"))
    (checkpoints / "page.safetensors").write_bytes(b"<!doctype html><title>Sign in</title>")
    with serving(folder, FAKE) as running:
        yield running


@pytest.fixture(scope="session")
def real_site(tmp_path_factory) -> Iterator[Site]:
    """Web process and engine, with two tiny random checkpoints."""
    from tests.builders import tiny_checkpoint

    folder = tmp_path_factory.mktemp("real")
    checkpoints = folder / "models" / "checkpoints"
    checkpoints.mkdir(parents=True)
    tiny_checkpoint(checkpoints / "tiny-xl.safetensors", "sdxl")
    tiny_checkpoint(checkpoints / "tiny-sd3.safetensors", "sd3")
    with serving(folder, REAL) as running:
        yield running


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    path = next((found for name in NAMES if (found := shutil.which(name))), None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, headless=True, args=FLAGS)
        yield browser
        browser.close()


class Studio:
    """What a test does with an open page."""

    def __init__(self, page: Page, origin: str) -> None:
        self.page = page
        self.origin = origin
        self.faults: list[str] = []
        self.foreign: list[str] = []
        page.set_default_timeout(30_000)
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("dialog", lambda dialog: (self.faults.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda request: self._note(request.url))

    def _note(self, url: str) -> None:
        if not url.startswith((self.origin, "data:", "blob:")):
            self.foreign.append(url)

    def open(self) -> None:
        self.page.goto(self.origin)
        self.settled()

    def settled(self) -> None:
        """The form is restored, the models are known, the first state was seen."""
        self.page.locator("#txt2img_generate").wait_for()
        self.until("() => easel.form.shared.checkpoint && document.body.dataset.family")
        self.until("() => easel.isRestored && easel.state.engine.state === 'ready'")

    def tab(self, name: str) -> None:
        self.page.get_by_role("tab", name=name, exact=True).click()

    def value(self, element_id: str) -> str:
        return self.page.locator(f"#{element_id}").locator("textarea, input[type=number], input").first.input_value()

    def number(self, element_id: str, value: float) -> None:
        """Type a number, again if it has gone: gradio draws a tab when it is first opened, and may lay the value that
        it had over what is typed in that moment."""
        box, (tab, _, field) = self.page.locator(f"#{element_id} input[type=number]"), element_id.partition("_")
        taken = "([tab, field, value]) => easel.form.tabs[tab] && easel.form.tabs[tab][field] === value"
        for patience in (3_000, None):
            box.fill(str(value))
            box.blur()
            try:
                self.until(taken, [tab, field, value], timeout=patience)
            except TimeoutError:
                if patience is None or float(box.input_value()) == value:
                    raise
            else:
                return

    def prompt(self, tab: str, words: str) -> None:
        self.page.locator(f"#{tab}_prompt textarea").fill(words)

    def choose(self, element_id: str, label: str) -> None:
        self.page.locator(f"#{element_id} input").click()
        self.page.get_by_role("option", name=re.compile(rf"^\W*{re.escape(label)}$")).click()

    def choose_checkpoint(self, name: str) -> None:
        """Choose it and wait until what it wants stands in the form."""
        self.page.locator("#checkpoint_picker button").click()
        self.page.get_by_role("combobox", name="Search checkpoints").fill(name)
        self.page.locator(".picker-option").filter(has=self.page.get_by_text(name, exact=True)).click()
        self.until("name => easel.form.shared.checkpoint === name && !easel.isWaiting", arg=name)

    def until(self, condition: str, arg: Any = None, *, timeout: float | None = None) -> None:
        """Wait until it is true in the page."""
        until(self.page, condition, arg, timeout=timeout)

    def newest(self) -> dict:
        return self.page.evaluate("easel.state.jobs[0]")

    def generate(self, tab: str, *, state: str = "done") -> dict:
        """Press Generate; wait until the job that it made is in ``state``."""
        before = self.page.evaluate("easel.state.jobs.length ? easel.state.jobs[0].id : ''")
        self.page.click(f"#{tab}_generate")
        return self.wait(before, state)

    def wait(self, before: str, state: str = "done") -> dict:
        self.until(
            "([before, state]) => easel.state.jobs.length && easel.state.jobs[0].id !== before"
            " && (easel.state.jobs[0].state === state || easel.state.jobs[0].state === 'failed')",
            arg=[before, state],
        )
        job = self.newest()
        assert job["state"] == state, job
        return job

    def stroke(self, frame, points: list[tuple[float, float]]) -> None:
        """Paint with the mouse; points are shares of the frame's width and height."""
        box = frame.bounding_box()
        places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
        self.page.mouse.move(*places[0])
        self.page.mouse.down()
        for place in places[1:]:
            self.page.mouse.move(*place, steps=6)
        self.page.mouse.up()


def open_page(chromium: Browser, site: Site, **options) -> Studio:
    """The site in a browser context of its own."""
    options = {"viewport": {"width": 1280, "height": 1000}, **options}
    studio = Studio(chromium.new_context(**options).new_page(), site.origin)
    studio.open()
    return studio


def leave(studio: Studio) -> None:
    """Close it; nothing may have gone wrong in it, and nothing was asked of another place."""
    studio.page.context.close()
    assert studio.faults == []
    assert studio.foreign == []


@pytest.fixture
def visit(chromium):
    """``visit(site)`` opens the page in a browser of its own."""
    opened: list[Studio] = []

    def start(site: Site, **options) -> Studio:
        opened.append(open_page(chromium, site, **options))
        return opened[-1]

    yield start
    for studio in opened:
        leave(studio)


@pytest.fixture(scope="module")
def here(chromium, site):
    """One open page for all tests of a module that do not mind what was done in it before."""
    studio = open_page(chromium, site)
    yield studio
    leave(studio)


@pytest.fixture
def picture(tmp_path):
    """A picture file: ``picture(640, 480)``."""

    def draw(width: int, height: int, name: str = "start.png") -> Path:
        path = tmp_path / name
        image = Image.linear_gradient("L").resize((width, height)).convert("RGB")
        image.save(path)
        return path

    return draw
