"""The whole way on tiny networks: VAE, denoiser, resume, export, and back through the public loader."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from backend.checkpoints.load import load_part
from backend.diffusion.conditioning import Conditioning
from backend.formats.detect import detect
from backend.formats.reader import read_header
from backend.training.denoiser import DenoiserPlan, Trainer, encode_pool, load_vae, train_denoiser
from backend.training.export import export_checkpoint
from backend.training.resume import run_from_checkpoint
from backend.training.shards import load_weights, save_weights
from backend.training.text import Captioner, build_encoders, encode_captions
from backend.training.vae import VAEPlan, train_vae
from backend.training.vocabulary import load_vocabulary

CPU = torch.device("cpu")


@pytest.fixture
def run(tmp_path, tiny_recipe, icons_folder):
    plan = VAEPlan(tiny_recipe.vae, 1e-3, minutes=0.002, batch=2, crop=32, pictures=4, side=64)
    train_vae(plan, icons_folder, tmp_path, seed=0, device=CPU)
    return tmp_path


@pytest.fixture
def plan(tiny_recipe):
    return DenoiserPlan(tiny_recipe, ("pairs",), minutes=0.002, batch=2, scenes=4, side=64)


def test_a_run_trains_resumes_and_becomes_a_checkpoint_that_the_loader_reads(plan, vocabulary, run, icons_folder):
    train_denoiser(plan, vocabulary, icons_folder, run, seed=0, device=CPU)
    assert Trainer(plan, vocabulary, run, seed=0, device=CPU).resumed

    path = export_checkpoint(plan.recipe, vocabulary, run, run / "checkpoints" / "tiny.safetensors")
    info = detect(read_header(path))
    recipe = plan.recipe.with_vocabulary(vocabulary)
    assert info.family == recipe.family
    assert info.denoiser == recipe.denoiser
    assert info.vae == recipe.vae
    assert info.clip_g == recipe.clip_g
    assert info.t5 == recipe.t5
    assert info.defaults == recipe.defaults
    assert info.tokenizer_clip == vocabulary.clip_json
    weights, _ = load_weights(run / "denoiser.safetensors")
    for part in weights:
        loaded = load_part(info, part).state_dict()
        for name, value in loaded.items():
            torch.testing.assert_close(value.float(), weights[part][name].half().float())


def test_a_run_goes_on_from_the_checkpoint_that_it_became(plan, vocabulary, run, icons_folder):
    train_denoiser(plan, vocabulary, icons_folder, run, seed=0, device=CPU)
    path = export_checkpoint(plan.recipe, vocabulary, run, run / "checkpoints" / "tiny.safetensors")
    recipe, again = plan.recipe.with_vocabulary(vocabulary), run / "again"
    run_from_checkpoint(path, recipe, again)

    first, _ = load_weights(run / "denoiser.safetensors")
    second, _ = load_weights(again / "denoiser.safetensors")
    assert first.keys() == second.keys()
    for part, state in first.items():
        for name, value in state.items():
            torch.testing.assert_close(second[part][name], value.half().float())
    trainer = Trainer(plan, load_vocabulary(again / "vocabulary.json"), again, seed=0, device=CPU)
    assert trainer.resumed
    assert load_vae(again, recipe)[1].scale == load_vae(run, recipe)[1].scale


def test_the_pools_latents_have_unit_variance(plan, run, icons_folder):
    pool = encode_pool(plan, icons_folder, run, seed=0, device=CPU)
    assert pool.latents.shape[1:] == (plan.recipe.vae.latent_channels, 8, 8)
    assert 0.3 < pool.latents.std() < 3


def test_the_preview_factors_map_latents_to_small_pictures(run, tiny_recipe):
    _, constants = load_vae(run, tiny_recipe)
    assert len(constants.rgb_factors) == tiny_recipe.vae.latent_channels
    assert constants.scale > 0


def test_a_step_changes_the_denoiser_and_the_text_encoders(plan, vocabulary, run, icons_folder):
    trainer = Trainer(replace(plan, drop_t5=0.0, drop_caption=0.0), vocabulary, run, seed=0, device=CPU)
    pool = encode_pool(plan, icons_folder, run, seed=0, device=CPU)
    before = {part: [p.clone() for p in module.parameters()] for part, module in trainer.modules.items()}
    for step in range(3):  # what starts at zero passes gradients from the second step on
        assert torch.isfinite(torch.tensor(trainer.step(pool, 50 + step, 0.1)))
    for part, module in trainer.modules.items():
        assert any(not torch.equal(a, b) for a, b in zip(before[part], module.parameters())), part


def test_conditioning_has_the_families_shapes_and_sdxl_zeroes_dropped_captions(tiny_recipe, vocabulary):
    recipe = tiny_recipe.with_vocabulary(vocabulary)
    encoders = build_encoders(recipe)
    ids = Captioner(recipe, vocabulary)(["a fox on a blue background", ""])
    made: Conditioning = encode_captions(
        recipe, encoders, ids, size=(64, 64), dropped=torch.tensor([False, True]), use_t5=True
    )
    if recipe.family == "sdxl":
        assert made.context.shape == (2, 77, 128)
        assert made.pooled.shape == (2, recipe.denoiser.label_dim)
        assert not made.context[1].any()
        assert not made.pooled[1, :64].any()
        assert made.pooled[1, 64:].any()
    else:
        assert made.context.shape == (2, 77 + 24, 128)
        assert made.pooled.shape == (2, recipe.denoiser.pooled_dim)


def test_weights_and_facts_come_back_as_they_were_saved(tmp_path):
    weights = {"a": {"x.weight": torch.randn(3)}, "b": {"y": torch.ones(2)}}
    save_weights(tmp_path / "w.safetensors", weights, {"step": 7})
    loaded, facts = load_weights(tmp_path / "w.safetensors")
    assert facts == {"step": 7}
    assert torch.equal(loaded["a"]["x.weight"], weights["a"]["x.weight"])
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"]
