"""Parts in files of their own make the same picture as one file with all of them, and are loaded once for all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from backend.checkpoints.convert import clip_to_open_clip
from backend.checkpoints.save import write_checkpoint, write_tensors
from backend.engine.engine import Engine
from backend.formats.easel_metadata import written
from backend.settings import load_settings
from tests.builders import tiny_checkpoint, tiny_clip_tokenizer, tiny_t5_tokenizer
from tests.checkpoints import tiny
from tests.engine.conftest import ask

CONFIGS = {"clip_l": tiny.CLIP_L, "clip_g": tiny.CLIP_G, "t5": tiny.T5}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """whole-*: all in one; alone-*: the denoiser; the other parts of both families in their folders."""
    folder = tmp_path_factory.mktemp("models")
    for name in ("checkpoints", "vae", "text_encoders"):
        (folder / name).mkdir()
    for family in ("sdxl", "sd3"):
        tiny_checkpoint(folder / "checkpoints" / f"whole-{family}.safetensors", family)
        modules = tiny.tiny_modules(family)
        metadata = tiny.tiny_metadata(family) | {"easel.tokenizer_clip": tiny_clip_tokenizer()}
        metadata |= {"easel.tokenizer_t5": tiny_t5_tokenizer()} if family == "sd3" else {}
        alone = {"denoiser": modules.pop("denoiser")}
        path = folder / "checkpoints" / f"alone-{family}.safetensors"
        write_checkpoint(path, family=family, modules=alone, metadata=metadata)
        for part, module in modules.items():
            state = {key: tensor.half() for key, tensor in module.state_dict().items() if "position_ids" not in key}
            if part == "vae":
                said = {key: metadata[key] for key in ("easel.vae", "easel.latent")}
                write_tensors(folder / "vae" / f"{family}.safetensors", state, said)
            else:
                said = {f"easel.{part}": written(f"easel.{part}", CONFIGS[part])}
                write_tensors(folder / "text_encoders" / f"{family}-{part}.safetensors", state, said)
                if (family, part) == ("sdxl", "clip_g"):
                    theirs = {key: tensor.contiguous() for key, tensor in clip_to_open_clip(state).items()}
                    write_tensors(folder / "text_encoders" / "open-clip_g.safetensors", theirs, said)
    return folder


@pytest.fixture(scope="module")
def studio(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    data = tmp_path_factory.mktemp("data")
    return Engine(load_settings(data_dir=data, models_dir=models, device="cpu", dtype="float32"))


def files(family: str) -> dict[str, str]:
    """Both families' tiny encoders have the same widths, so they are named."""
    parts = ("clip_l", "clip_g", "t5") if family == "sd3" else ("clip_l", "clip_g")
    names = {f"{part}_file": f"{family}-{part}" for part in parts}
    return names | ({"clip_g_file": "open-clip_g"} if family == "sdxl" else {})  # as it is stored in the whole file


@pytest.mark.parametrize("family", ["sdxl", "sd3"])
def test_the_picture_is_the_one_of_the_all_in_one_file(studio: Engine, family: str) -> None:
    whole = studio.generate(ask(f"whole-{family}"))
    alone = studio.generate(ask(f"alone-{family}", **files(family)))
    assert alone.pictures[0].image.tobytes() == whole.pictures[0].image.tobytes()
    assert alone.request.vae == family
    for name in files(family).values():
        assert name in alone.pictures[0].parameters
    again = studio.generate(alone.request)
    assert again.request == alone.request
    assert again.pictures[0].image.tobytes() == alone.pictures[0].image.tobytes()


def test_fact_5_both_namings_of_clip_g_give_the_same_picture(studio: Engine) -> None:
    """The projection is a bare matrix in one and a Linear weight, its transpose, in the other (FORMATS.md, row 5)."""
    pictures = [
        np.asarray(studio.generate(ask("alone-sdxl", **files("sdxl") | {"clip_g_file": name})).pictures[0].image)
        for name in ("open-clip_g", "sdxl-clip_g")
    ]
    difference = np.abs(pictures[0].astype(int) - pictures[1].astype(int))
    assert difference.max() <= 1  # products of another memory layout differ by 1e-7


def test_a_part_is_one_resident_whichever_checkpoint_uses_it(studio: Engine) -> None:
    studio.manager.drop_all()
    info, _ = studio.catalog.asked_by(ask("alone-sd3", **files("sd3")))
    other, _ = studio.catalog.asked_by(ask("whole-sd3", t5_file="sd3-t5"))
    assert studio.manager.get(info, "t5") is studio.manager.get(other, "t5")
    assert studio.manager.get(info, "clip_l") is not studio.manager.get(other, "clip_l")
    assert str(studio.manager.key(info, "t5")).startswith("sd3-t5: T5")


def test_a_vae_of_another_checkpoint_is_the_one_in_it(studio: Engine) -> None:
    own = studio.generate(ask("whole-sdxl"))
    lent = studio.generate(ask("alone-sdxl", vae="VAE of whole-sdxl", **files("sdxl")))
    assert lent.pictures[0].image.tobytes() == own.pictures[0].image.tobytes()
    assert "VAE: VAE of whole-sdxl" in lent.pictures[0].parameters
