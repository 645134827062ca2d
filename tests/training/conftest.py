"""Stand-ins for the emoji pictures, and recipes so small that a step takes milliseconds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageDraw

from backend.checkpoints.save import easel_metadata, write_checkpoint
from backend.formats.configs import CLIPConfig, LatentConstants, T5Config, VAEConfig
from backend.nn.layers import initialise
from backend.nn.vae import VAE
from backend.training.denoiser import build_denoiser
from backend.training.frozen import Frozen, load_frozen
from backend.training.objects import THINGS
from backend.training.recipe import RECIPES, Recipe
from backend.training.text import build_encoders
from backend.training.vocabulary import Vocabulary, train_vocabulary


@pytest.fixture(scope="session")
def icons_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like the npm package's, with a polygon of its own for every object."""
    folder = tmp_path_factory.mktemp("icons")
    (folder / "assets").mkdir()
    for number, thing in enumerate(THINGS.values()):
        picture = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
        colour = (number * 67 % 256, number * 149 % 256, number * 211 % 256, 255)
        ImageDraw.Draw(picture).regular_polygon((32, 32, 28), 3 + number % 6, rotation=number * 13, fill=colour)
        picture.save(folder / "assets" / f"{thing.code}.webp", lossless=True)
    return folder


@pytest.fixture(scope="session")
def vocabulary() -> Vocabulary:
    """A vocabulary trained on the grammar and a few names."""
    return train_vocabulary(["grinning face", "robot", "umbrella with rain drops"])


@pytest.fixture(params=["xl", "sd3"])
def tiny_recipe(request: pytest.FixtureRequest) -> Recipe:
    """Both families with one small level or block."""
    recipe = RECIPES[request.param]
    clip = CLIPConfig(64, 2, 1, 64, 0, 77, 64, "quick_gelu", 0, 0, 0)
    small = {
        "clip_l": clip,
        "clip_g": clip,
        "vae": VAEConfig(recipe.vae.latent_channels, 8, (1, 1, 1, 1), 1, recipe.vae.quant_conv, norm_groups=4),
    }
    if request.param == "xl":
        network = replace(
            recipe.denoiser,
            channel_mult=(1,),
            res_blocks=(1,),
            depth_in=(1,),
            depth_out=(0, 0),
            context_dim=128,
            label_dim=64 + 6 * 256,
        )
        return replace(recipe, denoiser=network, **small)
    network = replace(
        recipe.denoiser, depth=2, hidden=64, heads=1, context_dim=128, pooled_dim=128, dual_blocks=1, mlp_hidden=64
    )
    return replace(recipe, denoiser=network, t5=T5Config(128, 1, 1, 64, 64, 0, 24, 256), **small)


@pytest.fixture
def frozen(tiny_recipe: Recipe, vocabulary: Vocabulary, tmp_path: Path) -> Frozen:
    """A checkpoint of random weights, whose denoiser already answers with something."""
    torch.manual_seed(0)
    recipe = tiny_recipe.with_vocabulary(vocabulary)
    vae = VAE(recipe.vae)
    initialise(vae)
    denoiser = build_denoiser(recipe)
    for parameter in denoiser.parameters():  # what starts at zero lets no gradient through
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
    channels = recipe.vae.latent_channels
    latent = LatentConstants(channels, 1.0, 0.0, ((0.1, 0.1, 0.1),) * channels, (0.0, 0.0, 0.0))
    networks = {"denoiser": denoiser, "vae": vae, **build_encoders(recipe)}
    metadata = easel_metadata(
        denoiser=recipe.denoiser,
        vae=recipe.vae,
        latent=latent,
        clip_l=recipe.clip_l,
        clip_g=recipe.clip_g,
        t5=recipe.t5,
        defaults=recipe.defaults,
        tokenizer_clip=vocabulary.clip_json,
        tokenizer_t5=vocabulary.t5_json,
    )
    path = tmp_path / "tiny.safetensors"
    write_checkpoint(path, family=recipe.family, modules=networks, metadata=metadata)  # type: ignore[arg-type]
    return load_frozen(path, tiny_recipe.with_vocabulary(vocabulary), torch.device("cpu"))
