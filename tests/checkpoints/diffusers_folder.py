"""Writes a tiny model of either family as a diffusers folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from backend.checkpoints.diffusers_layout import mmdit_to_diffusers, unet_to_diffusers, vae_to_diffusers
from backend.checkpoints.save import write_tensors
from backend.formats.configs import Family
from tests import builders
from tests.checkpoints import tiny

ENCODERS = {"clip_l": "text_encoder", "clip_g": "text_encoder_2", "t5": "text_encoder_3"}


def write_folder(
    folder: Path, family: Family, *, variant: str = "", shards: int = 1, seed: int = 0, scheduler: Mapping | None = None
) -> Path:
    """The modules of ``tiny_modules`` in fp16, with what shapes do not say in JSON files as diffusers writes them."""
    modules = tiny.tiny_modules(family, seed)
    said = tiny.tiny_metadata(family) | {"easel.tokenizer_clip": builders.tiny_clip_tokenizer()}
    if family == "sd3":
        said["easel.tokenizer_t5"] = builders.tiny_t5_tokenizer()
    denoiser = modules.pop("denoiser").state_dict()
    vae_config = builders.TINY_VAE if family == "sdxl" else builders.TINY_VAE_16
    name = "unet" if family == "sdxl" else "transformer"
    theirs = unet_to_diffusers(denoiser, builders.TINY_UNET) if family == "sdxl" else mmdit_to_diffusers(denoiser)
    kept = {key: text for key, text in said.items() if key in ("easel.defaults", "easel.tokenizer_clip",
                                                             "easel.tokenizer_t5")}  # fmt: skip
    _write(folder / name, theirs, "diffusion_pytorch_model", variant, shards, kept)
    put(folder / name / "config.json", {"_class_name": "os.system", "norm_num_groups": 32})
    vae = vae_to_diffusers(modules.pop("vae").state_dict(), vae_config)
    _write(folder / "vae", vae, "diffusion_pytorch_model", variant, 1, {})
    scale = (
        {"scaling_factor": 0.5, "shift_factor": None}
        if family == "sdxl"
        else {"scaling_factor": 0.25, "shift_factor": 0.0609}
    )
    put(folder / "vae" / "config.json", {"norm_num_groups": 8, "latents_mean": None} | scale)
    for part, module in modules.items():
        own = {key: text for key, text in said.items() if key == f"easel.{part}"}
        state = {key: tensor for key, tensor in module.state_dict().items() if "position_ids" not in key}
        _write(folder / ENCODERS[part], state, "model", variant, 1, own)
        put(folder / ENCODERS[part] / "config.json", {"architectures": ["x"]})
    put(folder / "scheduler" / "scheduler_config.json", scheduler or {"_class_name": "EulerDiscreteScheduler"})
    put(folder / "model_index.json", {"_class_name": "StableDiffusionXLPipeline"})
    return folder


def put(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def _write(folder: Path, state: Mapping[str, Tensor], stem: str, variant: str, shards: int, metadata: dict) -> None:
    folder.mkdir(parents=True)
    tensors = {key: tensor.half().contiguous() for key, tensor in state.items()}
    if shards == 1:
        write_tensors(folder / f"{stem}{variant}.safetensors", tensors, metadata)
        return
    keys, places = sorted(tensors), {}
    for number in range(shards):
        name = f"{stem}{variant}-{number + 1:05}-of-{shards:05}.safetensors"
        mine = keys[number::shards]  # the three of a matrix end up in different shards
        write_tensors(folder / name, {key: tensors[key] for key in mine}, metadata)
        places |= dict.fromkeys(mine, name)
    put(folder / f"{stem}.safetensors.index{variant}.json", {"metadata": {}, "weight_map": places})
