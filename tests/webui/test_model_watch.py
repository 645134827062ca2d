"""The watch over model folders: what comes, changes or goes is noticed, and hashes are computed while nothing runs."""

from __future__ import annotations

import hashlib
import time

import pytest

from backend.records.catalog import Catalog
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
    catalog, busy = Catalog(tmp_path, hashes=tmp_path / "hashes.json"), [True]
    watch = ModelWatch(catalog, is_busy=lambda: busy[0], hashing=True, hash_after=0.0)
    watch.start()
    yield catalog, tmp_path / "checkpoints", busy
    watch.stop()


def until(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_files_are_noticed_read_and_forgotten_by_themselves(watching):
    catalog, folder, _ = watching
    path = write_sparse(folder / "m.safetensors", published("sdxl_base"))
    until(lambda: [entry.usable for entry in catalog.listing()] == [True])
    version = catalog.version
    path.write_bytes(b"cut")
    until(lambda: [entry.settling for entry in catalog.listing()] == [True])
    path.unlink()
    until(lambda: not catalog.listing())
    assert catalog.version > version


def test_hashes_wait_until_no_job_runs_and_then_show(watching):
    catalog, folder, busy = watching
    path = write_sparse(folder / "m.safetensors", keys("a.b"))
    until(lambda: [entry.is_read for entry in catalog.listing()] == [True])
    time.sleep(0.2)
    assert catalog.known_sha256(catalog.find("m")) is None
    version = catalog.version
    busy[0] = False
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    until(lambda: catalog.version > version)
    assert catalog.known_sha256(catalog.find("m")) == sha256
