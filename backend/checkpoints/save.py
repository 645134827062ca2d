"""Writes checkpoints in the published single-file layouts, whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from backend.checkpoints.convert import clip_to_open_clip
from backend.errors import BadRequest, DiskFull
from backend.formats.configs import (
    CLIPConfig,
    Defaults,
    Family,
    LatentConstants,
    MMDiTConfig,
    Part,
    T5Config,
    UNetConfig,
    VAEConfig,
)
from backend.formats.easel_metadata import FORMAT_VERSION, written
from backend.formats.layout import OPEN_CLIP_PARTS, PREFIXES, is_nuisance


def easel_metadata(
    *,
    denoiser: UNetConfig | MMDiTConfig,
    vae: VAEConfig,
    latent: LatentConstants,
    clip_l: CLIPConfig | None = None,
    clip_g: CLIPConfig | None = None,
    clip_h: CLIPConfig | None = None,
    t5: T5Config | None = None,
    defaults: Defaults,
    tokenizer_clip: str | None = None,
    tokenizer_t5: str | None = None,
    license: str = "",
) -> dict[str, str]:
    """The ``easel.*`` header fields of a checkpoint: all that its shapes cannot tell, as ``detect`` reads it back.

    Args:
        tokenizer_clip, tokenizer_t5: JSON of ``tokenizers.Tokenizer``; ``None``: the published vocabulary.
    """
    is_unet = isinstance(denoiser, UNetConfig)
    configs: dict[str, object] = {
        "easel.unet" if is_unet else "easel.mmdit": denoiser,
        "easel.vae": vae,
        "easel.latent": latent,
        "easel.defaults": defaults,
    }
    encoders = {"easel.clip_l": clip_l, "easel.clip_g": clip_g, "easel.clip_h": clip_h, "easel.t5": t5}
    configs |= {field: config for field, config in encoders.items() if config is not None}
    texts = {
        "easel.tokenizer_clip": tokenizer_clip,
        "easel.tokenizer_t5": tokenizer_t5,
        "easel.license": license or None,
    }
    return {field: written(field, config) for field, config in configs.items()} | {
        field: text for field, text in texts.items() if text is not None
    }


def write_checkpoint(
    path: Path,
    *,
    family: Family,
    modules: Mapping[Part, nn.Module | Mapping[str, Tensor]],
    metadata: Mapping[str, str],
    dtype: torch.dtype | None = torch.float16,
    markers: Iterable[str] = (),
    numbers: Mapping[str, Tensor] | None = None,
) -> None:
    """Write canonical modules or state dicts as one ``.safetensors`` file.

    The file appears under its name only when it is whole: temporary file in the same folder, fsync, rename. A mapped
    older file of that name stays valid for whoever has it open.

    Args:
        modules: by part; a part of a family that has none of it is an error.
        metadata: header strings (``modelspec.*``, ``easel.*``); ``easel.format`` is added.
        dtype: of every floating-point tensor; ``None`` keeps each as it is.
        markers: names of empty tensors at top level (``v_pred``, ``ztsnr``).
        numbers: small tensors at top level (``edm_mean``, ``edm_vpred.sigma_max``), in float32.
    Raises:
        BadRequest: for a part that the family does not have.
        DiskFull: if the file cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    for part, module in modules.items():
        if part not in PREFIXES[family]:
            raise BadRequest(f"A {family} checkpoint has no part {part!r}; it has {', '.join(PREFIXES[family])}.")
        state = module.state_dict() if isinstance(module, nn.Module) else module
        for key, tensor in _published(family, part, state).items():
            tensors[PREFIXES[family][part] + key] = _plain(tensor, dtype)
    tensors |= {name: torch.zeros(0) for name in markers}
    tensors |= {name: _plain(tensor, torch.float32) for name, tensor in (numbers or {}).items()}
    write_tensors(path, tensors, {"easel.format": str(FORMAT_VERSION), **metadata})


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors under the names given, atomically.

    Raises:
        DiskFull: if the file cannot be written; nothing is left behind.
    """
    path = Path(path)
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.stem[:80]}.", suffix=".tmp", dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise DiskFull(f"{path.name} could not be written: {error.strerror}.", "Look at the folder.") from error
    temporary = Path(name)
    try:
        safetensors.torch.save_file(dict(tensors), temporary, dict(metadata))
        temporary.chmod(0o644)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except (OSError, safetensors.SafetensorError) as error:
        raise DiskFull(f"{path.name} could not be written: {error}.", "Free some space and try again.") from error
    finally:
        temporary.unlink(missing_ok=True)


def _published(family: Family, part: Part, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Canonical keys -> the names that stand after the part's prefix in the published file."""
    state = {key: tensor for key, tensor in state.items() if not is_nuisance(key)}
    if (family, part) in OPEN_CLIP_PARTS:
        return clip_to_open_clip(state)
    if (family, part) == ("sdxl", "clip_l"):  # published without a projection: SDXL pools from CLIP-G alone
        state.pop("text_projection.weight", None)
    return state


def _plain(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    """A contiguous CPU tensor that shares memory with no other (safetensors demands both)."""
    target = dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype
    return tensor.detach().to(device="cpu", dtype=target, copy=True, memory_format=torch.contiguous_format)


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable, where the system can (not on Windows)."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
