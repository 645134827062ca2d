"""A GGUF denoiser with a GGUF T5 makes the picture of the same numbers in one float32 file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from torch import nn

from backend.checkpoints.save import write_checkpoint, write_tensors
from backend.engine.engine import Engine
from backend.formats.configs import CheckpointInfo
from backend.formats.easel_metadata import written
from backend.settings import load_settings
from tests.builders import tiny_clip_tokenizer, tiny_t5_tokenizer
from tests.checkpoints import tiny
from tests.checkpoints.gguf_networks import as_gguf, llama_cpp_names
from tests.engine.conftest import ask

T5_BY_BLOCKS = replace(tiny.T5, d_ff=512)  # rows that blocks of 256 divide


@pytest.fixture
def studio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    monkeypatch.setattr(tiny, "T5", T5_BY_BLOCKS)
    folder = tmp_path / "models"
    for name in ("checkpoints", "vae", "text_encoders"):
        (folder / name).mkdir(parents=True)
    modules: dict = dict(tiny.tiny_modules("sd3"))
    metadata = tiny.tiny_metadata("sd3") | {
        "easel.tokenizer_clip": tiny_clip_tokenizer(), "easel.tokenizer_t5": tiny_t5_tokenizer(),
    }  # fmt: skip
    for part in ("clip_l", "clip_g", "vae"):
        state = {key: tensor for key, tensor in modules[part].state_dict().items() if "position_ids" not in key}
        fields = ("easel.vae", "easel.latent") if part == "vae" else (f"easel.{part}",)
        place = "vae" if part == "vae" else "text_encoders"
        write_tensors(folder / place / f"{part}.safetensors", state, {field: metadata[field] for field in fields})
    _, modules["denoiser"] = as_gguf(
        folder / "checkpoints/small.gguf", modules["denoiser"].state_dict(), "Q4_K", texts=metadata
    )
    t5: nn.Module = modules["t5"]
    said = {"easel.t5": written("easel.t5", T5_BY_BLOCKS)}
    _, values = as_gguf(
        folder / "text_encoders/t5xxl.gguf", llama_cpp_names(t5.state_dict()), "Q5_K", arch="t5encoder", texts=said
    )
    modules["t5"] = dict(zip(t5.state_dict(), values.values(), strict=True))
    write_checkpoint(
        folder / "checkpoints/whole.safetensors", family="sd3", modules=modules, metadata=metadata, dtype=None
    )
    return Engine(load_settings(data_dir=tmp_path, models_dir=folder, device="cpu", dtype="float32"))


def test_the_picture_is_that_of_the_same_numbers_in_float32(studio: Engine) -> None:
    info = studio.catalog.checkpoint("small")
    assert isinstance(info, CheckpointInfo)
    assert (info.precision, info.variant) == ("GGUF Q4_K", "SD3.5 Medium")
    pictures = {}
    for name in ("whole", "small"):
        files = {f"{part}_file": name for part, name in (("clip_l", "clip_l"), ("clip_g", "clip_g"), ("t5", "t5xxl"))}
        result = studio.generate(ask(name, **(files if name == "small" else {})))
        pictures[name] = result.pictures[0].image.tobytes()
    assert pictures["small"] == pictures["whole"]
