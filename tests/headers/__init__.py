"""Key lists of published files: name, dtype and shape of every tensor, one line each, gzipped."""

from __future__ import annotations

import gzip
from pathlib import Path


def published(name: str, prefix: str = "") -> dict[str, tuple[str, tuple[int, ...]]]:
    """The tensors of ``<name>.tsv.gz`` below a prefix: key -> (dtype, shape)."""
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {}
    with gzip.open(Path(__file__).parent / f"{name}.tsv.gz", "rt") as file:
        for line in file:
            key, dtype, shape = line.rstrip("\n").split("\t")
            if key.startswith(prefix):
                sizes = tuple(int(size) for size in shape.split(",")) if shape else ()
                tensors[key.removeprefix(prefix)] = (dtype, sizes)
    return tensors
