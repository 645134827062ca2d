"""Detection of a list of tensors, as a file of the right size without any data would have them."""

from __future__ import annotations

import random

import pytest

from backend.formats.detect import detect
from backend.formats.reader import read_header
from tests.formats.files import Tensors, write_sparse


def _name() -> str:
    return "".join(random.choices("bcghjkq", k=12))  # letters that are in no hint


@pytest.fixture
def detected(tmp_path):
    """Detect a list of tensors under a name that says nothing, unless one is given.

    Some tensors may have values, and a ``.yaml`` may lie beside the file.
    """

    def run(tensors: Tensors, metadata=None, *, values=None, sidecar: str | bytes | None = None, stem=None):
        path = write_sparse(tmp_path / f"{stem or _name()}.bin", tensors, metadata, values)
        if sidecar is not None:
            path.with_suffix(".yaml").write_bytes(sidecar.encode() if isinstance(sidecar, str) else sidecar)
        return detect(read_header(path))

    return run
