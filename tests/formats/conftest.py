"""Detection of a list of tensors, as a file of the right size without any data would have them."""

from __future__ import annotations

import uuid

import pytest

from backend.formats.detect import detect
from backend.formats.reader import read_header
from tests.formats.files import Tensors, write_sparse


@pytest.fixture
def detected(tmp_path):
    """Detect a list of tensors under a name that says nothing."""

    def run(tensors: Tensors, metadata=None):
        return detect(read_header(write_sparse(tmp_path / f"{uuid.uuid4().hex}.bin", tensors, metadata)))

    return run
