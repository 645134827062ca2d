"""How long detection takes beside a bare JSON parse of the same header: ``python -m tests.formats.speed``."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from backend.formats.detect import detect
from backend.formats.reader import read_header
from tests.formats.files import HEADERS, published, write_sparse

ROUNDS = 15


def fastest(call: Callable[[], object], rounds: int = ROUNDS) -> float:
    """Processor seconds of the quickest of some calls, which do not depend on what else runs."""
    times = []
    for _ in range(rounds):
        begin = time.process_time()
        call()
        times.append(time.process_time() - begin)
    return min(times)


def times_of(name: str, folder: Path) -> tuple[float, float, float]:
    """Seconds to parse a published header as JSON, to read and check it, and to read it and say what it is."""
    path = write_sparse(folder / f"{name}.safetensors", published(name))
    length = int.from_bytes(path.open("rb").read(8), "little")
    text = path.open("rb").read(8 + length)[8:]
    path.touch()
    parse, read = fastest(lambda: json.loads(text)), fastest(lambda: read_header(path))
    return parse, read, fastest(lambda: detect(read_header(path)))


def main() -> None:
    """Print a table of all published headers."""
    write = sys.stdout.write
    write(f"{'':34}{'json':>8}{'read':>8}{'detect':>8}  ms; detection / json\n")
    with tempfile.TemporaryDirectory() as folder:
        for file in sorted(HEADERS.glob("*.tsv.gz")):
            name = file.name.removesuffix(".tsv.gz")
            parse, read, whole = times_of(name, Path(folder))
            write(f"{name:34}{parse * 1e3:8.2f}{read * 1e3:8.2f}{whole * 1e3:8.2f}{whole / parse:8.1f}\n")


if __name__ == "__main__":
    main()
