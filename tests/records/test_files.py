"""A file is written whole or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from backend.errors import DiskFull
from backend.records.files import sweep_temps, write_atomically


def test_a_write_replaces_the_whole_file_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "new" / "a.png"
    write_atomically(path, b"one")
    write_atomically(path, b"two")
    assert path.read_bytes() == b"two"
    assert [each.name for each in path.parent.iterdir()] == ["a.png"]


def test_a_full_disk_is_told_and_the_old_file_stays(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    write_atomically(path, b"old")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFull, match="disk is full"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_folder_that_is_a_file_is_told_without_its_path(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(DiskFull) as caught:
        write_atomically(tmp_path / "file" / "a.png", b"x")
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")  # noqa: PTH110
def test_a_killed_writer_leaves_no_torn_file(tmp_path):
    path = tmp_path / "a.png"
    code = (
        "import sys; from pathlib import Path; from backend.records.files import write_atomically\n"
        "i = 0\n"
        "while True:\n    i += 1; write_atomically(Path(sys.argv[1]), bytes([i % 256]) * 300_000)\n"
        "    if i == 1: sys.stdout.write('go\\n'); sys.stdout.flush()"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE)
    assert process.stdout.readline()
    time.sleep(0.05)
    process.kill()
    process.wait()
    process.stdout.close()
    data = path.read_bytes()
    assert len(data) == 300_000
    assert len(set(data)) == 1


def test_stale_temps_are_swept_and_young_ones_stay(tmp_path):
    folder = tmp_path / "2026-11-23"
    folder.mkdir()
    for name, age in [(".a.png.1234.easel-tmp", 7200), (".b.png.1234.easel-tmp", 0), ("c.png", 7200)]:
        (folder / name).write_bytes(b"x")
        os.utime(folder / name, (time.time() - age,) * 2)
    assert sweep_temps(tmp_path) == 1
    assert sorted(each.name for each in folder.iterdir()) == [".b.png.1234.easel-tmp", "c.png"]
    assert sweep_temps(tmp_path / "none") == 0
