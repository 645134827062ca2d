"""The model manager: parts stay warm, leave in order, and come back the same."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from backend.engine.device import DevicePolicy, choose_device
from backend.engine.models import ModelManager
from backend.errors import BadRequest, UserError
from backend.records.catalog import Catalog
from backend.records.model_files import ModelFiles

GENEROUS = 2**40


def manager(budget: int = GENEROUS) -> ModelManager:
    return ModelManager(DevicePolicy(torch.device("cpu"), torch.float32, torch.float32, budget))


@pytest.fixture
def catalog(models_dir: Path, tmp_path: Path) -> Catalog:
    return Catalog(ModelFiles(models_dir, hashes=tmp_path / "hashes.json"))


def test_a_second_get_is_the_same_object(catalog: Catalog) -> None:
    models, info = manager(), catalog.checkpoint("tiny-xl")
    assert models.get(info, "denoiser") is models.get(info, "denoiser")


def test_switching_families_and_back_loads_nothing_again(catalog: Catalog) -> None:
    models = manager()
    infos = [catalog.checkpoint(name) for name in ("tiny-xl", "tiny-sd3", "tiny-xl")]
    modules = [models.get(info, "denoiser") for info in infos]
    assert modules[0] is modules[2]


def test_t5_leaves_first_then_the_longest_unused(catalog: Catalog) -> None:
    xl, sd3 = catalog.checkpoint("tiny-xl"), catalog.checkpoint("tiny-sd3")
    models = manager()
    for part in ("clip_l", "denoiser", "t5"):
        models.get(sd3, part)
    wanted = models.key(xl, "denoiser")
    free = models.resident_bytes + wanted.bytes
    tight = ModelManager(DevicePolicy(torch.device("cpu"), torch.float32, torch.float32, free - 1))
    for part in ("clip_l", "denoiser", "t5"):
        tight.get(sd3, part)
    assert [key.part for key in tight.leaving([wanted])] == ["t5"]
    tight.get(xl, "denoiser")
    assert {(key.name, key.part) for key in tight.residents} == {
        ("tiny-sd3", "clip_l"), ("tiny-sd3", "denoiser"), ("tiny-xl", "denoiser"),
    }  # fmt: skip


def test_a_budget_of_one_part_still_runs_every_part(catalog: Catalog) -> None:
    models, info = manager(budget=1), catalog.checkpoint("tiny-sd3")
    for part in info.sources:
        models.get(info, part)
        assert [key.part for key in models.residents] == [part]


def test_a_part_that_came_back_has_the_same_bits(catalog: Catalog) -> None:
    models, info = manager(), catalog.checkpoint("tiny-xl")
    before = {name: tensor.clone() for name, tensor in models.get(info, "denoiser").state_dict().items()}
    models.drop_all()
    assert models.resident_bytes == 0
    after = models.get(info, "denoiser").state_dict()
    assert all(torch.equal(before[name], tensor) for name, tensor in after.items())


def test_a_replaced_file_is_loaded_anew_and_the_old_part_leaves(models_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    path = folder / "mine.safetensors"
    shutil.copy(models_dir / "checkpoints" / "tiny-xl.safetensors", path)
    catalog, models = Catalog(ModelFiles(tmp_path, hashes=tmp_path / "hashes.json")), manager()
    old = models.get(catalog.checkpoint("mine"), "vae")
    from tests.builders import tiny_checkpoint

    tiny_checkpoint(path, "sdxl", seed=5)
    new = models.get(catalog.checkpoint("mine"), "vae")
    assert new is not old
    assert len(models.residents) == 1


def test_a_failed_load_leaves_the_residents_alone(models_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    good, bad = folder / "good.safetensors", folder / "bad.safetensors"
    for path in (good, bad):
        shutil.copy(models_dir / "checkpoints" / "tiny-xl.safetensors", path)
    catalog, models = Catalog(ModelFiles(tmp_path, hashes=tmp_path / "hashes.json")), manager()
    module = models.get(catalog.checkpoint("good"), "denoiser")
    info = catalog.checkpoint("bad")
    bad.write_bytes(b"not a model any more")
    with pytest.raises(UserError):
        models.get(info, "denoiser")
    assert models.get(catalog.checkpoint("good"), "denoiser") is module


def test_half_precision_on_a_cpu_follows_the_units_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    assert choose_device("cpu").dtype is torch.float32
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    assert choose_device("cpu").dtype is torch.bfloat16
    assert choose_device("cpu").vae_dtype is torch.float32
    with pytest.raises(BadRequest, match="float16"):
        choose_device("cpu", "float16")


def test_a_device_that_is_not_there_is_refused_with_a_sentence() -> None:
    for name in ("cuda:99", "toaster", "xpu"):
        with pytest.raises(BadRequest, match="evice"):
            choose_device(name)
