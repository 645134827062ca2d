"""Detection of a list of tensors, as a file of the right size without any data would have them."""

from __future__ import annotations

import uuid

import pytest

from backend.formats.detect import detect
from backend.formats.reader import read_header
from tests.formats.files import Tensors, write_sparse


@pytest.fixture
def detected(tmp_path):
    """Detect a list of tensors under a name that says nothing; some may have values, a ``.yaml`` may lie beside."""

    def run(tensors: Tensors, metadata=None, *, values=None, sidecar: str | bytes | None = None):
        path = write_sparse(tmp_path / f"{uuid.uuid4().hex}.bin", tensors, metadata, values)
        if sidecar is not None:
            path.with_suffix(".yaml").write_bytes(sidecar.encode() if isinstance(sidecar, str) else sidecar)
        return detect(read_header(path))

    return run
