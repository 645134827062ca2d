"""An engine on tiny random checkpoints of both families, built once for all tests here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backend.engine.engine import Engine
from backend.request import GenerationRequest
from backend.settings import load_settings
from tests.builders import tiny_checkpoint

SIZE = 64


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


def ask(checkpoint: str, **fields: object) -> GenerationRequest:
    """A small request; fields override."""
    small: dict[str, object] = {
        "prompt": "a fox", "width": SIZE, "height": SIZE, "steps": 2, "seed": 11, "cfg_scale": 3.0,
        "sampler": "euler", "schedule": "automatic",
    }  # fmt: skip
    return GenerationRequest(checkpoint=checkpoint, **(small | fields))  # type: ignore[arg-type]


def picture_bytes(width: int = SIZE, height: int = SIZE, seed: int = 1) -> bytes:
    """A colourful PNG."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return encoded(Image.fromarray(pixels))


def mask_bytes(box: tuple[int, int, int, int], width: int = SIZE, height: int = SIZE) -> bytes:
    """A mask PNG that is white inside ``box``."""
    mask = Image.new("L", (width, height))
    mask.paste(255, box)
    return encoded(mask)


def encoded(image: Image.Image) -> bytes:
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def stored(engine: Engine) -> Callable[[bytes], str]:
    """Stores a picture as the page does and gives its sha256."""
    return lambda data: engine.inputs.store(data).sha256
