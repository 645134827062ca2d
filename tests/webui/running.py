"""A studio behind real HTTP in this process, with the fake engine in a child process and a small page."""

from __future__ import annotations

import contextlib
import io
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI
from PIL import Image

from backend.settings import Settings
from tests.formats.files import published, write_sparse
from webui.dispatcher import Patience
from webui.gradio_start import prepare_gradio
from webui.hook_calls import Deadlines
from webui.studio import Studio

ROOT = Path(__file__).parents[2]
FAKE_ENGINE = [sys.executable, str(Path(__file__).with_name("fake_engine.py"))]
QUICK = Patience(silence=5.0, first_pause=0.05, longest_pause=0.2, stop=2.0, store=0.2)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def settings_for(folder: Path, **more: Any) -> Settings:
    models = folder / "models"
    (models / "checkpoints").mkdir(parents=True, exist_ok=True)
    write_sparse(models / "checkpoints" / "xl.safetensors", published("sdxl_base"))
    (models / "checkpoints" / "page.safetensors").write_bytes(b"<!doctype html><title>Sign in</title>")
    more = {"hash_models": "on use", **more}  # the files are holes of gigabytes
    return Settings(data_dir=folder, models_dir=models, port=free_port(), **more)


def png(width: int = 64, height: int = 64, colour: Any = (200, 30, 30)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(buffer, "PNG")
    return buffer.getvalue()


class Running:
    """What a test needs of a running server."""

    def __init__(self, studio: Studio, routes: FastAPI) -> None:
        self.studio = studio
        self.routes = routes
        self.origin = f"http://127.0.0.1:{studio.settings.port}"
        self.client = httpx.Client(base_url=self.origin, timeout=30, trust_env=False)

    def submit(self, **fields: Any) -> dict[str, Any]:
        answer = self.client.post("/api/v1/jobs", json={"steps": 4, "seed": 7, "width": 256, "height": 256, **fields})
        assert answer.status_code == 202, answer.text
        return answer.json()

    def wait(self, job_id: str, *states: str) -> dict[str, Any]:
        end = time.monotonic() + 30
        while (job := self.client.get(f"/api/v1/jobs/{job_id}").json())["state"] not in (states or ("done",)):
            assert time.monotonic() < end, job
            assert job["state"] in {"queued", "running"}, job
            time.sleep(0.03)
        return job


def jobs_of(here: Running) -> list[str]:
    """The ids of all jobs: what nobody may add to."""
    return [job["id"] for job in here.client.get("/api/v1/jobs", params={"limit": 200}).json()["jobs"]]


@contextlib.contextmanager
def running(
    folder: Path,
    *,
    command: Sequence[str] = FAKE_ENGINE,
    patience: Patience = QUICK,
    extended: bool = False,
    deadlines: Deadlines | None = None,
    **more: Any,
) -> Iterator[Running]:
    """Start everything but the launcher; stop it all at the end. ``extended``: with the extensions' web side."""
    if "gradio" not in sys.modules:
        prepare_gradio(folder / ".uploads")
    import gradio
    import uvicorn

    from webui.app import build_routes, guarded
    from webui.extension_host import ExtensionHost

    os.environ["PYTHONPATH"] = str(ROOT)  # for the child
    studio = Studio(settings_for(folder, **more), command=command, patience=patience)
    with gradio.Blocks(analytics_enabled=False) as page:
        name = gradio.Textbox(label="Name")
        greeting = gradio.Textbox(label="Greeting")
        picture = gradio.Image(label="Picture", type="filepath")
        gradio.Button("Greet").click(lambda who: f"Hello, {who}!", name, greeting, api_name="greet")
        gradio.Button("Size").click(lambda path: str(path), picture, greeting, api_name="size")
    host = ExtensionHost.load(studio, deadlines) if extended else None
    routes = build_routes(studio, page, host=host)
    config = uvicorn.Config(guarded(routes, studio.settings), log_config=None, ws="none", proxy_headers=False,
                            timeout_graceful_shutdown=1, port=studio.settings.port)  # fmt: skip
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    studio.start(feed=host is None)
    if host is not None:
        studio.extend(host)
    thread.start()
    end = time.monotonic() + 30
    while not server.started:
        assert time.monotonic() < end
        time.sleep(0.02)
    here = Running(studio, routes)
    try:
        yield here
    finally:
        here.client.close()
        server.should_exit = True
        thread.join(10)
        studio.close()
