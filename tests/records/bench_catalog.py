"""How long a folder of many models takes to list: ``python -m tests.records.bench_catalog [FILES]``.

The files are true headers of published models (tests/headers) before holes: 5,000 take about 2 GB of disk for a while.
"Warm" is what a start of Easel costs once the headers were read; each figure is of a process of its own.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from itertools import cycle, islice
from pathlib import Path

from backend.records.model_files import ModelFiles
from tests.formats.files import HEADERS, published, write_sparse

FOLDERS = ("checkpoints", "checkpoints", "loras", "vae", "controlnet")


def build(root: Path, count: int) -> None:
    """``count`` files in folders of 100, every kind of header in turn; a picture and notes beside every tenth."""
    headers: dict[str, Path] = {}
    for name in sorted(path.name.removesuffix(".tsv.gz") for path in HEADERS.glob("*.tsv.gz")):
        headers[name] = write_sparse(root / f"{name}.header", published(name))
    for number, source in enumerate(islice(cycle(headers.values()), count)):
        folder = root / "models" / FOLDERS[number % len(FOLDERS)] / f"set-{number // 500:02}"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"model-{number:05}.safetensors"
        with source.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            file.seek(0)
            path.write_bytes(file.read(8 + length))
        with path.open("r+b") as file:
            file.truncate(source.stat().st_size)
        if number % 10 == 0:
            path.with_suffix(".preview.png").write_bytes(b"x")
            path.with_suffix(".json").write_text("{}")
    for source in headers.values():
        source.unlink()


def measure(root: Path, what: str) -> None:
    """Print the seconds of one scan with this root's cache."""
    started, busy = time.perf_counter(), time.process_time()
    files = ModelFiles(root / "models", readings=root / "data" / "models.sqlite", hashes=root / "data" / "hashes.json")
    files.look()
    looked = time.perf_counter()
    unread = sum(not entry.is_read for entry in files.listing())
    listed = time.perf_counter()
    while files.read_on(3600):
        continue
    ended, busy = time.perf_counter(), time.process_time() - busy
    files.look()
    again = time.perf_counter()
    sys.stdout.write(
        f"{what}: found {len(files.listing())} in {looked - started:.2f} s, listed in {listed - looked:.2f} s, "
        f"read {unread} headers in {ended - listed:.2f} s; {listed - started + ended - listed:.2f} s in all "
        f"({busy:.2f} s of a core); "
        f"looked again in {again - ended:.3f} s\n"
    )


if __name__ == "__main__":
    if len(sys.argv) == 3:
        measure(Path(sys.argv[1]), sys.argv[2])
    else:
        with tempfile.TemporaryDirectory(prefix="easel-bench-") as folder:
            build(Path(folder), int(sys.argv[1]) if len(sys.argv) > 1 else 5000)
            for what in ("cold", "warm", "warm"):
                subprocess.run([sys.executable, "-m", "tests.records.bench_catalog", folder, what], check=True)
