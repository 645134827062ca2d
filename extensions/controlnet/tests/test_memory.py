"""Guidance networks as residents: told in the plan, loaded once, and the denoiser that they guide stays beside them."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from backend.engine.engine import Engine
from backend.engine.uses import Use
from backend.events import Planned
from backend.settings import load_settings
from extensions.controlnet.tests.test_units import guided
from tests.engine.conftest import SIZE, ask, encoded
from tests.families.running import colours


@pytest.fixture
def fresh(engine, tmp_path) -> Engine:
    """An engine with nothing in memory."""
    return Engine(load_settings(data_dir=tmp_path, models_dir=engine.settings.models_dir, device="cpu"))


def planned(engine: Engine, request) -> Planned:
    events: list[object] = []
    engine.generate(request, events.append)
    return next(event for event in events if isinstance(event, Planned))


def test_the_plan_tells_of_the_network_and_it_is_loaded_once(fresh):
    picture = fresh.inputs.store(encoded(colours(SIZE, SIZE))).sha256
    without = planned(fresh, ask("tiny-xl")).plan
    first = planned(fresh, guided("tiny-xl", "edges-xl", picture)).plan
    assert [part for part in first.loads if "edges-xl" in part] == list(first.loads)
    assert first.needs_bytes > without.needs_bytes
    assert planned(fresh, guided("tiny-xl", "edges-xl", picture, weight=0.5)).plan.loads == ()
    assert [key.name for key in fresh.manager.residents].count("edges-xl.safetensors") == 1


def test_a_network_never_takes_the_place_of_the_denoiser_that_it_guides(fresh):
    """Of a budget that both exceed, too: what is at work cannot be let go of."""
    info = fresh.catalog.checkpoint("tiny-xl")
    fresh.manager.get(info, "clip_g")
    with fresh.manager.using(Use()) as use:
        fresh.manager.denoiser(info, use=use)
        denoiser = fresh.manager.key(info, "denoiser")
        fresh.manager.policy = replace(fresh.manager.policy, budget_bytes=denoiser.bytes + 1)
        key = fresh.manager.network_key([fresh.catalog.control("edges-xl").path], "control")
        fresh.manager.network(key, lambda: nn.Linear(1, 1), use)
        assert {key.part for key in fresh.manager.residents} == {"denoiser", "network"}


@pytest.fixture
def changing(engine, tmp_path) -> tuple[Engine, Path]:
    """An engine with models of its own, and its checkpoint."""
    models = tmp_path / "models"
    for folder, name in (("checkpoints", "tiny-xl"), ("controlnet", "control-lora")):
        (models / folder).mkdir(parents=True)
        shutil.copy(engine.settings.models_dir / folder / f"{name}.safetensors", models / folder)
    settings = load_settings(data_dir=tmp_path / "data", models_dir=models, device="cpu", dtype="float32")
    return Engine(settings), models / "checkpoints" / "tiny-xl.safetensors"


def laid_over(engine: Engine) -> dict[str, torch.Tensor]:
    """The weights of the control-LoRA's network after a job."""
    kept = [r.module for r in engine.manager._residents.values() if r.key.name == "control-lora.safetensors"]
    assert len(kept) == 1  # one that was made of a file that has changed is gone
    return {key: tensor.clone() for key, tensor in kept[0].state_dict().items()}


def test_a_control_lora_is_laid_anew_over_a_checkpoint_whose_file_has_changed(changing):
    engine, path = changing
    request = guided("tiny-xl", "control-lora", engine.inputs.store(encoded(colours(SIZE, SIZE))).sha256)
    engine.generate(request)
    before = laid_over(engine)
    engine.generate(request)
    assert all(torch.equal(tensor, before[key]) for key, tensor in laid_over(engine).items())
    tensors = load_file(path)
    key = "model.diffusion_model.middle_block.0.in_layers.2.weight"
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    save_file(tensors | {key: tensors[key] + 1}, path, metadata)
    engine.generate(request)
    after = laid_over(engine)
    name = key.removeprefix("model.diffusion_model.")
    changed = {each for each, tensor in after.items() if not torch.equal(tensor, before[each])}
    assert changed == {name}
    torch.testing.assert_close(after[name], before[name] + 1, atol=1e-3, rtol=0)  # the file holds halves


@pytest.mark.parametrize("tag", ["<lora:style:1>", "<lora:style:1:start=0.5>"])
def test_a_control_lora_is_laid_over_the_checkpoint_and_not_over_what_loras_make_of_it(changing, tag):
    engine, path = changing
    models = path.parents[1]
    picture = engine.inputs.store(encoded(colours(SIZE, SIZE))).sha256
    engine.generate(guided("tiny-xl", "control-lora", picture))
    plain = laid_over(engine)
    (models / "loras").mkdir()
    layer = "middle_block_1_transformer_blocks_0_attn1_to_q"
    name = "middle_block.1.transformer_blocks.0.attn1.to_q.weight"
    rows, columns = plain[name].shape
    draw = torch.Generator().manual_seed(4)
    lora = {f"lora_unet_{layer}.lora_down.weight": torch.randn(2, columns, generator=draw),
            f"lora_unet_{layer}.lora_up.weight": torch.randn(rows, 2, generator=draw)}  # fmt: skip
    save_file(lora, models / "loras" / "style.safetensors")
    data = engine.settings.data_dir.with_name("other")
    other = Engine(load_settings(data_dir=data, models_dir=models, device="cpu", dtype="float32"))
    other.inputs.store(encoded(colours(SIZE, SIZE)))
    first = guided("tiny-xl", "control-lora", picture, fields={"prompt": f"a fox {tag}"})
    made = [np.asarray(other.generate(first).pictures[0].image) for _ in range(2)]
    assert all(torch.equal(tensor, plain[key]) for key, tensor in laid_over(other).items())
    assert np.array_equal(*made)  # loaded in the job, or there already: the LoRA acts alike
    without = other.generate(guided("tiny-xl", "control-lora", picture, fields={"prompt": "a fox"}))
    assert (np.asarray(without.pictures[0].image) != made[0]).any()
