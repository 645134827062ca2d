"""Files are found without being opened, their headers read once and remembered, and changes noticed."""

from __future__ import annotations

import os
import sys
import threading

import pytest

from backend.records import found_files
from backend.records.model_files import ModelFiles
from tests.formats.files import keys, put_published, write_sparse


def test_headers_are_read_once_until_the_file_changes(models, monkeypatch):
    reads = []
    real = found_files.read_header
    monkeypatch.setattr(found_files, "read_header", lambda path: reads.append(path.name) or real(path))
    path = put_published(models, "checkpoints/a.safetensors")
    files = ModelFiles(models)
    files.models(), files.models(), files.find("a")
    assert reads == ["a.safetensors"]
    path.write_bytes(b"cut")
    assert not files.find("a").usable
    path.unlink()
    assert files.models() == []
    assert reads == ["a.safetensors"] * 2


@pytest.mark.skipif(sys.platform == "win32", reason="FIFOs and symbolic links")
def test_links_are_followed_and_fifos_circles_and_dead_links_are_not(models, tmp_path):
    real = put_published(tmp_path, "elsewhere/linked.safetensors")
    (models / "checkpoints" / "link.safetensors").symlink_to(real)
    (models / "checkpoints" / "shared").symlink_to(tmp_path / "elsewhere")
    (models / "checkpoints" / "circle").symlink_to(models / "checkpoints")
    (models / "checkpoints" / "dead.safetensors").symlink_to(tmp_path / "gone")
    os.mkfifo(models / "checkpoints" / "pipe.safetensors")
    done = []
    thread = threading.Thread(
        target=lambda: done.append([entry.name for entry in ModelFiles(models).models()]), daemon=True
    )
    thread.start()
    thread.join(20)
    assert sorted(done[0]) == ["link", "shared/linked"]


def test_several_threads_may_look_at_once(models):
    put_published(models, "checkpoints/a.safetensors")
    files, seen = ModelFiles(models), []
    threads = [threading.Thread(target=lambda: seen.append(len(files.models()))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [1] * 6


def test_a_warm_scan_opens_no_file(models, tmp_path, monkeypatch):
    put_published(models, "checkpoints/a.safetensors")
    put_published(models, "vae/v.safetensors", "sdxl_vae")
    write_sparse(models / "loras" / "l.safetensors", keys("lora_unet_x.lora_down.weight"))
    old = models / "checkpoints" / "cut.safetensors"
    old.write_bytes(b"cut")
    os.utime(old, (1e9, 1e9))
    cache = tmp_path / "models.sqlite"
    first = ModelFiles(models, readings=cache).models()
    monkeypatch.setattr(found_files, "read_header", lambda path: pytest.fail(f"{path.name} was opened"))
    files = ModelFiles(models, readings=cache)
    files.look()
    assert [(e.name, e.info, e.sentence) for e in files.listing()] == [(e.name, e.info, e.sentence) for e in first]
    assert files.find("a").info.family == "sdxl"


def test_looking_opens_nothing_and_entries_appear_as_they_are_read(models):
    for name in "abc":
        put_published(models, f"checkpoints/{name}.safetensors")
    files = ModelFiles(models)
    assert files.look()
    assert [(e.name, e.is_read, e.usable, e.sentence) for e in files.listing()] == [
        (name, False, False, "") for name in "abc"
    ]
    version = files.version
    assert files.read_on(0.0)  # one at least
    assert [e.is_read for e in files.listing()] == [True, False, False]
    assert files.version > version
    assert files.find("c").usable  # asked for: read at once
    assert [e.is_read for e in files.listing()] == [True, False, True]
    assert not files.read_on(60)
    assert all(e.usable for e in files.listing())
    version = files.version
    assert not files.look()
    assert files.version == version


def test_a_file_that_is_still_copied_is_read_again_when_it_settles(models, tmp_path):
    now = [1e9]
    with put_published(tmp_path, "whole.safetensors").open("rb") as file:
        whole = file.read(400_000)  # the header and some of the hole
    path, cache = models / "checkpoints" / "m.safetensors", tmp_path / "models.sqlite"

    def write(data: bytes, size: int) -> None:
        with path.open("wb") as file:
            file.write(data)
            file.truncate(size)
        os.utime(path, (now[0], now[0]))

    files = ModelFiles(models, readings=cache, clock=lambda: now[0])
    write(whole[:1000], 1000)
    (entry,) = files.models()
    assert (entry.usable, entry.settling) == (False, True)
    now[0] += 3
    full = (tmp_path / "whole.safetensors").stat().st_size
    write(whole, full)
    (entry,) = files.models()
    assert (entry.usable, entry.settling) == (True, False)

    write(whole[:1000], 1000)  # damaged for good
    assert files.models()[0].settling
    now[0] += 11
    assert not files.look()
    files.read_on(60)
    assert (files.listing()[0].usable, files.listing()[0].settling) == (False, False)
    assert ModelFiles(models, readings=cache).find("m").error is not None


def test_sidecars_are_found_by_their_names(models):
    path = put_published(models, "checkpoints/m.safetensors")
    for name in ("m.png", "m.preview.PNG", "m.json", "m.civitai.info", "other.png"):
        (path.parent / name).write_bytes(b"x")
    (entry,) = ModelFiles(models).models()
    assert entry.preview is not None
    assert entry.preview[0] == str(path.parent / "m.preview.PNG")
    assert [name.rpartition("/")[2] for name in entry.note_files] == ["m.json", "m.civitai.info"]


def test_a_yaml_beside_a_file_that_comes_or_changes_makes_it_read_anew(models):
    path = put_published(models, "checkpoints/m.safetensors")
    files = ModelFiles(models)
    files.models()
    assert not files.look()
    path.with_suffix(".yaml").write_text("model: {}")
    assert files.look()
    assert not files.listing()[0].is_read
