"""From a run's folder to one checkpoint in the published single-file layout."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from torch import Tensor

from backend.checkpoints.save import easel_metadata, write_checkpoint
from backend.formats.configs import PARTS, Part
from backend.training.denoiser import load_vae
from backend.training.recipe import Recipe
from backend.training.shards import load_weights
from backend.training.vocabulary import Vocabulary

LICENSE = (
    "MIT. Trained on scenes composed from Microsoft's Fluent Emoji (MIT), named with emojibase-data (MIT). "
    "See models/checkpoints/README.md."
)
_ARCHITECTURES = {"sdxl": "stable-diffusion-xl-v1-base", "sd3": "stable-diffusion-v3-medium"}


def export_checkpoint(recipe: Recipe, vocabulary: Vocabulary, run: Path, path: Path) -> Path:
    """Write the averaged weights of VAE, denoiser and text encoders as fp16, with all that shapes cannot tell."""
    recipe = recipe.with_vocabulary(vocabulary)
    weights, _ = load_weights(run / "denoiser.safetensors")
    modules: dict[Part, Mapping[str, Tensor]] = {part: weights[part] for part in PARTS if part in weights}
    vae, constants = load_vae(run, recipe)
    metadata = easel_metadata(
        denoiser=recipe.denoiser,
        vae=recipe.vae,
        latent=constants,
        clip_l=recipe.clip_l,
        clip_g=recipe.clip_g,
        t5=recipe.t5,
        defaults=recipe.defaults,
        tokenizer_clip=vocabulary.clip_json,
        tokenizer_t5=vocabulary.t5_json if recipe.t5 is not None else None,
        license=LICENSE,
    )
    metadata |= published_facts(recipe, f"Easel {recipe.name}")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_checkpoint(path, family=recipe.family, modules={**modules, "vae": vae.state_dict()}, metadata=metadata)
    return path


def published_facts(recipe: Recipe, title: str, adapter: str = "") -> dict[str, str]:
    """The header fields of the ModelSpec.

    Args:
        adapter: of a file that belongs to such a checkpoint: "lora", "controlnet".
    """
    architecture = _ARCHITECTURES[recipe.family]
    return {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": f"{architecture}/{adapter}" if adapter else architecture,
        "modelspec.title": title,
        "modelspec.author": "the Easel project",
        "modelspec.license": LICENSE,
        "modelspec.date": datetime.now(UTC).date().isoformat(),
        "modelspec.resolution": f"{recipe.defaults.width}x{recipe.defaults.height}",
        "modelspec.prediction_type": "epsilon" if recipe.family == "sdxl" else "rectified_flow",
    }
