"""How long the page takes to answer, measured from outside: the real command in a process of its own, ended after."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from backend.errors import Internal
from backend.settings import Settings

PAUSE = 0.02  # seconds between two questions: the resolution of the figures
PATIENCE = 120.0
STOP_GRACE = 20.0


def measure_start_up(settings: Settings) -> tuple[float, float]:
    """Seconds from the start of ``easel`` to the first answer of /health, and to the whole page from /.

    It runs with an empty data folder on a free port, with the models of ``settings`` and the engine beside it.

    Raises:
        Internal: if it ends or stays silent for two minutes.
    """
    port = _free_port()
    with tempfile.TemporaryDirectory(prefix="easel-bench-", ignore_cleanup_errors=True) as folder:
        started = time.perf_counter()
        with _running(settings, Path(folder), port) as process:
            health = _answer(process, f"http://127.0.0.1:{port}/health", started)
            page = _answer(process, f"http://127.0.0.1:{port}/", started)
    return health, page


@contextlib.contextmanager
def _running(settings: Settings, folder: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """The command with nothing of ours in its environment."""
    command = [
        sys.executable, "-P", "-m", "webui", "--port", str(port),
        "--data-dir", str(folder), "--models-dir", str(settings.models_dir), "--device", settings.device,
        *(word for path in settings.models_from for word in ("--models-from", str(path))),
    ]  # fmt: skip
    environment = {name: value for name, value in os.environ.items() if not name.startswith("EASEL_")}
    process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)  # the launcher ends the server, and that its engine
        try:
            process.wait(STOP_GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answer(process: subprocess.Popen[bytes], address: str, started: float) -> float:
    """Seconds since ``started`` when the whole answer had come."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while time.perf_counter() - started < PATIENCE:
        try:
            with direct.open(address, timeout=PATIENCE) as response:
                response.read()
                return time.perf_counter() - started
        except (urllib.error.URLError, ConnectionError):
            if process.poll() is not None:
                raise Internal(f"The page ended with code {process.returncode} while it started.") from None
            time.sleep(PAUSE)
    raise Internal(f"The page did not answer within {PATIENCE:g} s.")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
