"""LoRAs and ControlNets of a tiny checkpoint: they learn, go on exactly where they stopped, and load complete."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from backend.adapters.apply import AdapterUse, applied
from backend.adapters.formats import read_adapter
from backend.adapters.places import Places
from backend.formats.adapters import AdapterInfo
from backend.formats.control import detect_control
from backend.formats.detect import detect
from backend.formats.reader import read_header
from backend.training.control import ControlPlan, build, export_control, guided, train_control, varied
from backend.training.finetune import Finetune
from backend.training.lora import Lora, LoraPlan, export_lora, train_lora
from backend.training.pool import Pool
from backend.training.scenes import Item, Scene
from backend.training.steering import load_trained_control, measure_steering

LORA = LoraPlan(steps=6, scenes=4, rank=2, batch=2, side=64)
CONTROL = ControlPlan(steps=6, scenes=4, batch=2, side=64, warmup=2)


class StoppedError(Exception):
    """In place of kill -9."""


@pytest.mark.parametrize(("train", "plan"), [(train_lora, LORA), (train_control, CONTROL)])
def test_a_run_that_was_stopped_goes_on_to_the_same_weights(frozen, icons_folder, tmp_path, monkeypatch, train, plan):
    whole = train(plan, frozen, icons_folder, tmp_path / "whole", seed=3)

    run = Finetune.run

    def stopping(self, loss_of, *, save_every=60.0):
        def until_four(step):
            if step == 4:
                raise StoppedError
            return loss_of(step)

        run(self, until_four, save_every=0)

    monkeypatch.setattr(Finetune, "run", stopping)
    with pytest.raises(StoppedError):
        train(plan, frozen, icons_folder, tmp_path / "halved", seed=3)
    monkeypatch.setattr(Finetune, "run", run)
    halved = train(plan, frozen, icons_folder, tmp_path / "halved", seed=3)
    assert whole.steps == halved.steps == plan.steps
    assert whole.weights.keys() == halved.weights.keys()
    assert all(torch.equal(value, halved.weights[name]) for name, value in whole.weights.items())
    again = train(replace(plan, steps=1), frozen, tmp_path / "no icons", tmp_path / "halved", seed=3)  # as far as it is
    assert again.steps == plan.steps
    assert all(torch.equal(value, again.weights[name]) for name, value in whole.weights.items())


@pytest.mark.parametrize(("train", "plan"), [
    (train_lora, replace(LORA, steps=32, scenes=1, drop_caption=0.0, lr=5e-3)),
    (train_control, replace(CONTROL, steps=32, scenes=1, drop_caption=0.0, lr=5e-3)),
])  # fmt: skip
def test_the_loss_falls(frozen, icons_folder, tmp_path, train, plan):
    losses = []
    run = Finetune.run

    def listening(self, loss_of, *, save_every=60.0):
        def told(step):
            loss = loss_of(step % 4)  # the same noise again and again
            losses.append(loss.item())
            return loss

        run(self, told, save_every=save_every)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Finetune, "run", listening)
        train(plan, frozen, icons_folder, tmp_path, seed=0)
    assert sum(losses[-4:]) < 0.9 * sum(losses[:4])


def test_an_exported_lora_matches_whole_and_does_what_it_did_in_training(frozen, icons_folder, tmp_path):
    done = train_lora(LORA, frozen, icons_folder, tmp_path, seed=0)
    path = export_lora(done, frozen, LORA, tmp_path / "demo-style.safetensors")
    info = detect(read_header(path))
    assert isinstance(info, AdapterInfo)
    assert (info.rank, info.kinds) == (LORA.rank, ("LoRA",))

    adapter = read_adapter(path, Places({"denoiser": frozen.denoiser}))
    assert adapter.match.matched == adapter.match.total
    lora = Lora(frozen.denoiser, LORA.rank)
    lora.load_state_dict(done.weights)
    inputs = some_inputs(frozen)
    plain = frozen.denoiser(*inputs)
    with lora.applied():
        trained = frozen.denoiser(*inputs)
    with applied({"denoiser": frozen.denoiser}, [AdapterUse(adapter, 1.0)]):
        written = frozen.denoiser(*inputs)
    change = (trained - plain).abs().max()
    assert change > 1e-3
    assert (written - trained).abs().max() < 0.01 * change
    assert torch.equal(frozen.denoiser(*inputs), plain)


def test_a_fresh_controlnet_is_a_copy_that_changes_nothing(frozen):
    torch.manual_seed(0)
    network = build(frozen.denoiser)
    own = frozen.denoiser.state_dict()
    place = "time_embed.0.weight" if frozen.recipe.family == "sdxl" else "t_embedder.mlp.0.weight"
    assert torch.equal(network.state_dict()[place], own[place])
    x, *rest = some_inputs(frozen)
    hint = torch.rand(2, *hint_shape(frozen))
    assert torch.equal(guided(frozen.denoiser, network, hint)(x, *rest), frozen.denoiser(x, *rest))


def test_an_exported_controlnet_loads_complete_and_does_what_it_did_in_training(frozen, icons_folder, tmp_path):
    done = train_control(CONTROL, frozen, icons_folder, tmp_path, seed=0)
    trained = build(frozen.denoiser)
    trained.load_state_dict(done.weights)
    path = export_control(done, frozen, tmp_path / "demo-edges.safetensors")
    info = detect_control(read_header(path))
    assert (info.family, info.config, info.layout) == (frozen.recipe.family, trained.control, "original")
    loaded = load_trained_control(path)
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, done.weights[name].half().float()), name
    hint, inputs = torch.rand(2, *hint_shape(frozen)), some_inputs(frozen)
    with torch.no_grad():
        plain = frozen.denoiser(*inputs)
        before, after = (guided(frozen.denoiser, network, hint)(*inputs) for network in (trained, loaded))
    change = (before - plain).abs().max()
    assert change > 1e-4
    assert (after - before).abs().max() < 0.05 * change


def test_steering_is_measured_with_and_without(frozen, icons_folder):
    frozen = replace(frozen, info=replace(frozen.info, defaults=replace(frozen.info.defaults, steps=2)))
    steering, pictures = measure_steering(frozen, build(frozen.denoiser), icons_folder, 2, cfg_scale=2.0, side=64)
    assert pictures.shape == (4, 2, 3, 64, 64)
    assert steering.without == steering.steered  # a fresh network changes nothing
    assert torch.equal(pictures[2], pictures[3])


def test_a_mirrored_picture_has_a_mirrored_scene():
    scene = Scene("blue", (Item("fox", "normal", "left"), Item("cat", "normal", "right")))
    image = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    image[..., :32] = 255
    for seed in range(6):
        pool = varied(Pool(image, [scene]), seed)
        is_left = pool.images[0, 0, 32, 0] > pool.images[0, 0, 32, -1]
        assert [item.thing for item in pool.scenes[0].items] == (["fox", "cat"] if is_left else ["cat", "fox"])
        assert [item.place for item in pool.scenes[0].items] == ["left", "right"]


def some_inputs(frozen):
    """What a denoiser is called with, for two pictures."""
    config = frozen.recipe.denoiser
    g = torch.Generator().manual_seed(1)
    pooled = config.label_dim if frozen.recipe.family == "sdxl" else config.pooled_dim
    x = torch.randn(2, config.in_channels, 8, 8, generator=g)
    context = torch.randn(2, 7, config.context_dim, generator=g)
    return x, torch.tensor([900.0, 300.0]), context, torch.randn(2, pooled, generator=g)


def hint_shape(frozen):
    return (3, 64, 64) if frozen.recipe.family == "sdxl" else (frozen.recipe.denoiser.in_channels, 8, 8)
