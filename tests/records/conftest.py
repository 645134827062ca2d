"""What the tests of records share."""

from __future__ import annotations

import pytest


@pytest.fixture
def models(tmp_path):
    """A models folder without files."""
    folder = tmp_path / "models"
    for name in ("checkpoints", "vae", "loras"):
        (folder / name).mkdir(parents=True)
    return folder
