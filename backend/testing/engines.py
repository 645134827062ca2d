"""Engines on tiny checkpoints of both families, with or without one extension's folder; small requests and pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from backend.approvals import Approvals
from backend.checkpoints.save import write_tensors
from backend.engine.engine import Engine
from backend.engine.extensions import Extensions
from backend.formats.configs import Family
from backend.manifest import ExtensionRefused, Found, bundled_folder, find_extensions, read_manifest
from backend.plugins import Extension
from backend.request import GenerationRequest
from backend.settings import Settings, load_settings
from backend.testing.checkpoints import tiny_checkpoint, tiny_modules
from backend.testing.control import write_tiny_control

SIZE = 64  # pixels a side of the pictures that tests ask for
#: The checkpoints of the tiny models folder and their families; each has a LoRA and a ControlNet of its name.
CHECKPOINTS: Mapping[str, Family] = {"tiny-xl": "sdxl", "tiny-sd3": "sd3"}


def write_tiny_models(folder: Path) -> Path:
    """A models folder with an SDXL-style and an SD3.5-style checkpoint, and a LoRA and a ControlNet for each."""
    for name, family in CHECKPOINTS.items():
        (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        (folder / "loras").mkdir(exist_ok=True)
        (folder / "controlnet").mkdir(exist_ok=True)
        tiny_checkpoint(folder / "checkpoints" / f"{name}.safetensors", family)
        write_tensors(folder / "loras" / f"{name}.safetensors", _lora(family), {})
        write_tiny_control(folder / "controlnet" / f"{name}.safetensors", family)
    return folder


def tiny_settings(data: Path, models: Path, home: Path | None = None, **more: object) -> Settings:
    """Settings of an engine on the CPU; ``home``: the folder of an extension that it is to load."""
    beside = () if home is None or home.parent.resolve() == bundled_folder().resolve() else (home.parent,)
    told = {"device": "cpu", "dtype": "float32", "extensions_dir": beside, "no_extensions": home is None, **more}
    return load_settings(data_dir=data, models_dir=models, **told)


def tiny_engine(data: Path, models: Path, home: Path | None = None) -> Engine:
    """An engine on the CPU: without any extension, or with the shipped ones and the one in ``home``.

    Raises:
        ExtensionRefused: ``home`` has no manifest that can be read.
    """
    settings = tiny_settings(data, models, home)
    if home is not None:
        Approvals(settings.approvals).set(find_in(settings, home), on=True)
    return Engine(settings)


def find_in(settings: Settings, home: Path) -> Found:
    """The extension in the folder ``home``. Raises ``ExtensionRefused`` where its manifest cannot be used."""
    found = next(
        (
            each
            for each in find_extensions(bundled_folder(), settings.extension_folders)
            if each.folder.resolve() == home.resolve()
        ),
        None,
    )
    if found is None or found.error is not None:
        read_manifest(home)
        raise (found.error if found and found.error else ExtensionRefused(f"{home} is no extension's folder."))
    return found


def loaded(extensions: Extensions, home: Path) -> Extension:
    """How an extension fares in an engine."""
    return next(
        each for each in extensions.plugins.extensions.values() if each.found.folder.resolve() == home.resolve()
    )


def ask(checkpoint: str = "tiny-xl", **fields: object) -> GenerationRequest:
    """A small request for one of ``CHECKPOINTS``; fields override."""
    small: dict[str, object] = {
        "prompt": "a fox", "width": SIZE, "height": SIZE, "steps": 2, "seed": 11, "cfg_scale": 3.0,
        "sampler": "euler", "schedule": "automatic",
    }  # fmt: skip
    return GenerationRequest(checkpoint=checkpoint, **(small | fields))  # type: ignore[arg-type]


def picture_bytes(width: int = SIZE, height: int = SIZE, seed: int = 1) -> bytes:
    """A PNG of colourful noise."""
    return encoded(Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)))


def mask_bytes(box: tuple[int, int, int, int], width: int = SIZE, height: int = SIZE) -> bytes:
    """A mask as PNG, white inside ``box``."""
    mask = Image.new("L", (width, height))
    mask.paste(255, box)
    return encoded(mask)


def encoded(image: Image.Image) -> bytes:
    """A picture as PNG."""
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def pixels(engine: Engine, request: GenerationRequest) -> bytes:
    """Every pixel of a request's pictures."""
    return b"".join(picture.image.tobytes() for picture in engine.generate(request).pictures)


def _lora(family: Family, rank: int = 4) -> dict[str, Tensor]:
    """A LoRA for the denoiser's attention, in kohya's naming."""
    made: dict[str, Tensor] = {}
    denoiser = tiny_modules(family)["denoiser"]
    generator = torch.Generator().manual_seed(3)
    for name, module in denoiser.named_modules():
        if not name.endswith(("attn2.to_k", "attn.qkv")):
            continue
        out, wide = module.get_parameter("weight").shape
        stem = f"lora_unet_{name.replace('.', '_')}"
        made[f"{stem}.lora_up.weight"] = 0.5 * torch.randn(out, rank, generator=generator)
        made[f"{stem}.lora_down.weight"] = torch.randn(rank, wide, generator=generator) / math.sqrt(wide)
        made[f"{stem}.alpha"] = torch.tensor(float(rank))
    return made
