"""Low-memory mode: the same pictures from weights that stay stored, and a budget that is told the truth."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from backend.engine.device import DevicePolicy
from backend.engine.engine import Engine
from backend.engine.models import ModelManager
from backend.formats.configs import PARTS
from backend.nn.stored import StoredConv2d, StoredEmbedding, StoredLinear
from backend.records.catalog import Catalog
from backend.records.model_files import ModelFiles
from backend.settings import load_settings
from tests.engine.conftest import ask

MIB = 2**20
CPU = torch.device("cpu")


def policy(low_memory: str, dtype: torch.dtype = torch.float32, budget: int = 2**40) -> DevicePolicy:
    return DevicePolicy(CPU, dtype, torch.float32, budget, low_memory)  # type: ignore[arg-type]


def held(module: torch.nn.Module) -> int:
    return sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))


@pytest.fixture
def catalog(models_dir: Path, tmp_path: Path) -> Catalog:
    return Catalog(ModelFiles(models_dir, hashes=tmp_path / "hashes.json"))


@pytest.fixture
def engine_with(models_dir: Path, tmp_path: Path) -> Callable[[str, str], Engine]:
    return lambda low_memory, dtype: Engine(
        load_settings(data_dir=tmp_path, models_dir=models_dir, device="cpu", dtype=dtype, low_memory=low_memory)
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_same_request_gives_the_same_bytes_in_both_modes(
    engine_with: Callable[[str, str], Engine], checkpoint: str, dtype: str
) -> None:
    pictures = [
        engine_with(mode, dtype).generate(ask(checkpoint)).pictures[0].image.tobytes() for mode in ("off", "on")
    ]
    assert pictures[0] == pictures[1]


def test_a_part_that_came_back_in_low_memory_mode_gives_the_same_bytes(
    engine_with: Callable[[str, str], Engine], checkpoint: str
) -> None:
    engine = engine_with("on", "float32")
    first = engine.generate(ask(checkpoint)).pictures[0].image.tobytes()
    again = engine.generate(ask(checkpoint)).pictures[0].image.tobytes()
    engine.manager.drop_all()
    assert first == again == engine.generate(ask(checkpoint)).pictures[0].image.tobytes()


@pytest.mark.parametrize("mode", ["on", "off"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_a_part_is_said_to_take_is_what_it_holds(
    catalog: Catalog, checkpoint: str, mode: str, dtype: torch.dtype
) -> None:
    models, info = ModelManager(policy(mode, dtype)), catalog.checkpoint(checkpoint)
    for part in [part for part in PARTS if part in info.sources]:
        module = models.get(info, part)
        # Biases and norms are cast in any mode, and counters of positions are no weights.
        assert held(module) == pytest.approx(models.key(info, part).bytes, rel=0.03), part


def test_auto_keeps_weights_stored_only_where_they_would_not_fit_otherwise(catalog: Catalog) -> None:
    info = catalog.checkpoint("tiny-xl")  # float16
    cast = sum(ModelManager(policy("off")).key(info, part).bytes for part in info.sources)

    def is_stored(budget: int, dtype: torch.dtype = torch.float32) -> bool:
        unet = ModelManager(policy("auto", dtype, budget)).denoiser(info)
        return any(isinstance(m, StoredLinear | StoredConv2d | StoredEmbedding) for m in unet.modules())

    assert not is_stored(cast)
    assert is_stored(cast - 1)


def test_off_is_obeyed_and_a_gpu_gains_nothing_by_half_precision(catalog: Catalog) -> None:
    info = catalog.checkpoint("tiny-xl")
    tight = policy("off", budget=1)
    assert not tight.arithmetic("denoiser", info.sources).keep_all
    gpu = DevicePolicy(torch.device("cuda"), torch.bfloat16, torch.bfloat16, 1, "on")
    assert not gpu.arithmetic("denoiser", info.sources).keep_all
    assert gpu.arithmetic("denoiser", info.sources).keep_quantised


def test_the_vae_is_cast_as_a_whole_in_every_mode(catalog: Catalog, checkpoint: str) -> None:
    vae = ModelManager(policy("on", torch.bfloat16)).vae(catalog.checkpoint(checkpoint))
    assert {parameter.dtype for parameter in vae.parameters()} == {torch.float32}
