"""From a shipped checkpoint back to a run's folder, so that training goes on from the fp16 weights alone."""

from __future__ import annotations

from pathlib import Path

import torch

from backend.checkpoints.load import load_part
from backend.errors import ModelUnsupported
from backend.formats.configs import CheckpointInfo
from backend.formats.detect import detect
from backend.formats.reader import read_header
from backend.training.recipe import Recipe
from backend.training.shards import save_weights
from backend.training.vocabulary import Vocabulary, save_vocabulary


def run_from_checkpoint(path: Path, recipe: Recipe, run: Path) -> None:
    """Write ``vae.safetensors``, ``denoiser.safetensors`` and ``vocabulary.json`` of a run from ``path``.

    The averaged weights were rounded to fp16 when they were exported; the optimiser starts afresh.

    Raises:
        ModelUnsupported: if the file is no checkpoint of the recipe's shape, or carries no vocabulary.
    """
    info = detect(read_header(path))
    if not isinstance(info, CheckpointInfo) or info.denoiser != recipe.denoiser or info.clip_l is None:
        raise ModelUnsupported(f"{path.name} was not trained with the recipe of {recipe.name}.", field="checkpoint")
    save_vocabulary(vocabulary_of(info), run / "vocabulary.json")
    weights = {part: load_part(info, part).float().state_dict() for part in info.sources}
    # SDXL's layout has no projection for CLIP-L; in training it is the identity and stays it (build_encoders).
    weights["clip_l"].setdefault("text_projection.weight", torch.eye(info.clip_l.width))
    latent = info.latent
    facts = {"scale": latent.scale, "shift": latent.shift}
    facts |= {"rgb_factors": latent.rgb_factors, "rgb_bias": latent.rgb_bias}
    save_weights(run / "vae.safetensors", {"vae": weights.pop("vae")}, facts)
    save_weights(run / "denoiser.safetensors", weights, {"from": path.name})


def vocabulary_of(info: CheckpointInfo) -> Vocabulary:
    """The vocabulary that a checkpoint of this trainer carries.

    Raises:
        ModelUnsupported: if it carries none, or has no text encoder that says how the ids are used.
    """
    clip, t5 = info.clip_l, info.t5
    if clip is None or info.tokenizer_clip is None:
        raise ModelUnsupported(f"{info.path.name} carries no vocabulary of this trainer.", field="checkpoint")
    t5_size = t5.vocab_size if t5 else 0
    return Vocabulary(info.tokenizer_clip, info.tokenizer_t5 or "", clip.vocab_size, t5_size, clip.bos, clip.eos)
