"""HRA, an adapter format that Easel's core does not know: whole pictures as PEFT merges it, and all of it undone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from backend.errors import ModelUnsupported
from tests.engine.conftest import ask
from tests.ports.conftest import pixels

pytestmark = pytest.mark.oracle
PREFIX = "model.diffusion_model."
#: Layers of a tiny checkpoint by the names that PEFT sees, of the checkpoint's own layout.
LAYERS = {
    "tiny-xl": (
        "input_blocks.3.1.transformer_blocks.0.attn1.to_q",
        "input_blocks.3.1.transformer_blocks.0.attn2.to_k",
        "input_blocks.3.0.in_layers.2",  # a convolution
    ),
    "tiny-sd3": (
        "joint_blocks.0.x_block.attn.qkv",
        "joint_blocks.1.x_block.attn.proj",
        "joint_blocks.0.x_block.mlp.fc1",
    ),
}


def tensors_of(models_dir, checkpoint):
    path = models_dir / "checkpoints" / f"{checkpoint}.safetensors"
    with safe_open(path, framework="pt") as file:
        return load_file(path), file.metadata()


def skeleton(layers):
    """Modules of these names alone, for PEFT to wrap."""
    root = nn.Module()
    for name, weight in layers.items():
        *parents, last = name.split(".")
        here = root
        for each in parents:
            if not hasattr(here, each):
                here.add_module(each, nn.Module())
            here = getattr(here, each)
        out, wide = weight.shape[:2]
        layer = (
            nn.Conv2d(wide, out, weight.shape[2], bias=False) if weight.ndim == 4 else nn.Linear(wide, out, bias=False)
        )
        layer.weight.data = weight.float().clone()
        here.add_module(last, layer)
    return root


def write_hra(models_dir, checkpoint):
    """An HRA file as PEFT saves it, and the checkpoint with what PEFT merged."""
    import peft

    torch.manual_seed(3)
    tensors, metadata = tensors_of(models_dir, checkpoint)
    layers = {name: tensors[f"{PREFIX}{name}.weight"] for name in LAYERS[checkpoint]}
    config = peft.HRAConfig(r=3, target_modules=list(layers), init_weights=False)
    model = peft.get_peft_model(skeleton(layers), config)
    (models_dir / "loras").mkdir(exist_ok=True)
    model.save_pretrained(models_dir / "peft", safe_serialization=True)
    (models_dir / "peft" / "adapter_model.safetensors").rename(models_dir / "loras" / f"hra-{checkpoint}.safetensors")
    merged = dict(model.merge_and_unload().named_parameters())
    changed = {
        f"{PREFIX}{name}": weight.detach().to(tensors[f"{PREFIX}{name}"].dtype) for name, weight in merged.items()
    }
    path = models_dir / "checkpoints" / f"merged-{checkpoint}.safetensors"
    save_file({key: t.contiguous() for key, t in (tensors | changed).items()}, path, metadata)


@pytest.fixture
def models(models_dir, tmp_path, checkpoint):
    """A models folder of a test's own."""
    own = tmp_path / "models"
    (own / "checkpoints").mkdir(parents=True)
    (own / "checkpoints" / f"{checkpoint}.safetensors").symlink_to(
        models_dir / "checkpoints" / f"{checkpoint}.safetensors"
    )
    write_hra(own, checkpoint)
    return own


def test_register_adapter_formats_makes_the_picture_that_peft_merged_and_leaves_the_weights_to_the_bit(
    ported, models, checkpoint
):
    engine = ported("hra", models=models)
    network = engine.manager.denoiser(engine.catalog.checkpoint(checkpoint))
    before = {name: weight.clone() for name, weight in network.named_parameters()}
    plain = pixels(engine, checkpoint)
    merged = pixels(engine, f"merged-{checkpoint}")
    done = engine.generate(ask(checkpoint, prompt=f"a fox <lora:hra-{checkpoint}:unet=1:te=0>"))
    ours = np.asarray(done.pictures[0].image, dtype=np.int16)[None]
    assert np.abs(merged - plain).max() > 3
    assert np.abs(ours - merged).max() <= 1
    assert not any("matched" in note for note in done.notes), done.notes  # every key was used
    half = pixels(engine, checkpoint, prompt=f"a fox <lora:hra-{checkpoint}:0.5>")
    assert not np.array_equal(half, ours)
    assert np.array_equal(pixels(engine, checkpoint), plain)
    network = engine.manager.denoiser(engine.catalog.checkpoint(checkpoint))
    assert all(torch.equal(weight, before[name]) for name, weight in network.named_parameters())


def test_it_acts_in_a_window_and_in_a_region_as_any_lora_does(ported, models, checkpoint):
    engine, tag = ported("hra", models=models), f"a fox <lora:hra-{checkpoint}:1"
    plain, whole = pixels(engine, checkpoint, steps=4), pixels(engine, checkpoint, steps=4, prompt=f"{tag}>")
    assert np.array_equal(pixels(engine, checkpoint, steps=4, prompt=f"{tag}:start=0:end=1>"), whole)
    late = pixels(engine, checkpoint, steps=4, prompt=f"{tag}:start=0.5>")
    left = pixels(engine, checkpoint, steps=4, prompt=f"{tag}:region=left>")
    for each in (late, left):
        assert not np.array_equal(each, plain)
        assert not np.array_equal(each, whole)


def test_without_the_extension_such_a_file_is_refused(ported, models, checkpoint):
    engine = ported(models=models)
    with pytest.raises(ModelUnsupported, match="of no kind that Easel knows"):
        engine.generate(ask(checkpoint, prompt=f"a fox <lora:hra-{checkpoint}:1>"))


def test_a_file_for_layers_of_another_size_is_told(ported, models, checkpoint):
    path = models / "loras" / f"hra-{checkpoint}.safetensors"
    tensors = load_file(path)
    first = next(iter(tensors))
    path.unlink()
    save_file(tensors | {first: torch.randn(5, 2)}, path)
    done = ported("hra", models=models).generate(ask(checkpoint, prompt=f"a fox <lora:hra-{checkpoint}:1>"))
    assert any("matched 2 of 3 keys; 1 of another shape" in note for note in done.notes), done.notes
