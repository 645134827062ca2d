"""An engine on tiny random checkpoints of both families, built once for all tests here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from backend.engine.engine import Engine
from backend.settings import load_settings
from backend.testing.engines import SIZE, ask, encoded, mask_bytes, picture_bytes
from tests.builders import tiny_checkpoint

__all__ = ["SIZE", "ask", "checkpoint", "encoded", "engine", "mask_bytes", "models_dir", "picture_bytes", "stored"]


@pytest.fixture(scope="session")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    (folder / "checkpoints").mkdir()
    tiny_checkpoint(folder / "checkpoints" / "tiny-xl.safetensors", "sdxl")
    tiny_checkpoint(folder / "checkpoints" / "tiny-sd3.safetensors", "sd3")
    return folder


@pytest.fixture(scope="session")
def engine(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    data = tmp_path_factory.mktemp("data")
    yield Engine(load_settings(data_dir=data, models_dir=models_dir, device="cpu", dtype="float32"))


@pytest.fixture(params=["tiny-xl", "tiny-sd3"])
def checkpoint(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def stored(engine: Engine) -> Callable[[bytes], str]:
    """Stores a picture as the page does and gives its sha256."""
    return lambda data: engine.inputs.store(data).sha256
