"""An engine whose models folder holds a tiny adapter of every kind, and a picture to be read."""

from __future__ import annotations

from dataclasses import replace

import pytest
from PIL import Image

from backend.checkpoints.save import write_checkpoint
from backend.engine.engine import Engine
from backend.settings import load_settings
from backend.testing.checkpoints import tiny_metadata, tiny_modules
from extensions.ip_adapter.tests.networks import write_files
from tests.builders import TINY_MMDIT, tiny_checkpoint, tiny_clip_tokenizer, tiny_mmdit, tiny_t5_tokenizer
from tests.engine.conftest import SIZE, encoded
from tests.families.running import colours

LARGE = replace(TINY_MMDIT, qk_norm=True)  # one joint attention a block and normed queries, as SD3.5 Large has them


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    folder = tmp_path_factory.mktemp("ip_adapter")
    (folder / "checkpoints").mkdir()
    tiny_checkpoint(folder / "checkpoints" / "tiny-xl.safetensors", "sdxl")
    tiny_checkpoint(folder / "checkpoints" / "tiny-sd1.safetensors", "sd1")
    for name, config in (("tiny-sd3", LARGE), ("tiny-sd3-plain", TINY_MMDIT)):
        metadata = tiny_metadata("sd3") | {"easel.tokenizer_clip": tiny_clip_tokenizer(),
                                           "easel.tokenizer_t5": tiny_t5_tokenizer()}  # fmt: skip
        modules = tiny_modules("sd3") | {"denoiser": tiny_mmdit(config)}
        write_checkpoint(
            folder / "checkpoints" / f"{name}.safetensors", family="sd3", modules=modules, metadata=metadata
        )
    write_files(folder)
    return Engine(load_settings(data_dir=folder, models_dir=folder, device="cpu", dtype="float32"))


@pytest.fixture(scope="session")
def picture(engine: Engine) -> str:
    """The sha256 of a stored picture that is no square."""
    return engine.inputs.store(encoded(shown())).sha256


def shown() -> Image.Image:
    """That picture."""
    return colours(2 * SIZE, SIZE + 24, seed=5)
