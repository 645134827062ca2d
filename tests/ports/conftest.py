"""The engine side of ports, on tiny checkpoints: each engine has exactly the ports that a test names."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from backend.approvals import Approvals
from backend.engine.engine import Engine
from backend.settings import load_settings
from tests.engine.conftest import ask, checkpoint, engine, models_dir
from tests.extending import approve_all, forget_loose_extensions

__all__ = ["checkpoint", "engine", "models_dir"]
HERE = Path(__file__).parent


@pytest.fixture
def ported(models_dir: Path, tmp_path: Path) -> Iterator[Callable[..., Engine]]:
    def build(*names: str, models: Path = models_dir) -> Engine:
        for name in names:
            shutil.copytree(HERE / name, tmp_path / "extensions" / name, ignore=shutil.ignore_patterns("__pycache__"))
        settings = load_settings(data_dir=tmp_path, models_dir=models, device="cpu", dtype="float32")
        approve_all(tmp_path / "extensions", Approvals(settings.approvals))
        made = Engine(settings)
        assert all(made.extensions.plugins.extensions[name].status == "on" for name in names)
        return made

    yield build
    forget_loose_extensions()


def pixels(engine: Engine, checkpoint: str, **fields: object) -> np.ndarray:
    """(pictures, H, W, 3) of a small job; ``panel`` is (name, values)."""
    name, values = fields.pop("panel", (None, {}))  # type: ignore[misc]
    extensions = {name: {"version": 1, "values": values}} if name else {}
    result = engine.generate(ask(checkpoint, extensions=extensions, **fields))
    return np.stack([np.asarray(picture.image, dtype=np.int16) for picture in result.pictures])
