"""An engine whose models/controlnet holds a tiny network of every kind, and a picture to be guided by."""

from __future__ import annotations

import pytest

from backend.engine.engine import Engine
from backend.settings import load_settings
from extensions.controlnet.tests.networks import write_networks
from tests.builders import tiny_checkpoint
from tests.engine.conftest import SIZE, encoded
from tests.families.running import colours


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    folder = tmp_path_factory.mktemp("controlnet")
    (folder / "checkpoints").mkdir()
    tiny_checkpoint(folder / "checkpoints" / "tiny-xl.safetensors", "sdxl")
    tiny_checkpoint(folder / "checkpoints" / "tiny-sd3.safetensors", "sd3")
    tiny_checkpoint(folder / "checkpoints" / "tiny-sd1.safetensors", "sd1")
    tiny_checkpoint(folder / "checkpoints" / "tiny-refiner.safetensors", "sdxl_refiner")
    write_networks(folder / "controlnet")
    return Engine(load_settings(data_dir=folder, models_dir=folder, device="cpu", dtype="float32"))


@pytest.fixture(scope="session")
def picture(engine: Engine) -> str:
    """The sha256 of a stored picture."""
    return engine.inputs.store(encoded(colours(SIZE, SIZE))).sha256
