"""The watch over model folders: what comes, changes or goes is noticed, and hashes are computed while nothing runs."""

from __future__ import annotations

import hashlib
import time

import pytest

from backend.records.model_files import ModelFiles
from tests.formats.files import keys, published, write_sparse
from webui import model_watch
from webui.model_watch import ModelWatch


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(model_watch, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(model_watch, "LOOK_SHARES", (0, 0))
    monkeypatch.setattr(model_watch, "BUSY_SECONDS", 0.01)


@pytest.fixture
def watching(tmp_path, quick):
    (tmp_path / "checkpoints").mkdir()
    files, busy = ModelFiles(tmp_path, hashes=tmp_path / "hashes.json"), [True]
    watch = ModelWatch(files, is_busy=lambda: busy[0], hashing=True, hash_after=0.0)
    watch.start()
    yield files, tmp_path / "checkpoints", busy
    watch.stop()


def until(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_files_are_noticed_read_and_forgotten_by_themselves(watching):
    files, folder, _ = watching
    path = write_sparse(folder / "m.safetensors", published("sdxl_base"))
    until(lambda: [entry.usable for entry in files.listing()] == [True])
    version = files.version
    path.write_bytes(b"cut")
    until(lambda: [entry.settling for entry in files.listing()] == [True])
    path.unlink()
    until(lambda: not files.listing())
    assert files.version > version


def test_hashes_wait_until_no_job_runs_and_then_show(watching):
    files, folder, busy = watching
    path = write_sparse(folder / "m.safetensors", keys("a.b"))
    until(lambda: [entry.is_read for entry in files.listing()] == [True])
    time.sleep(0.2)
    assert files.known_sha256(files.find("m")) is None
    version = files.version
    busy[0] = False
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    until(lambda: files.version > version)
    assert files.known_sha256(files.find("m")) == sha256
