"""The parts of a model file: where each lies, in which naming and precision, and its configuration.

What the ``easel.*`` fields of the header say stands in place of what was measured, and must fit it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from backend.errors import ModelCorrupt
from backend.formats import easel_metadata, measure
from backend.formats.configs import (
    CLIPConfig,
    Family,
    LatentConstants,
    Layout,
    Part,
    PartSource,
    T5Config,
    VAEConfig,
)
from backend.formats.layout import OTHER_PREFIXES, PREFIXES, is_nuisance, part_tensors
from backend.formats.measure import Tensors
from backend.formats.reader import Header
from backend.formats.storage import part_source

#: A key that only a part in this naming has.
_LAYOUT_KEYS: Mapping[str, Layout] = {
    "positional_embedding": "open_clip",
    "embeddings.token_embedding.weight": "headless",
}

_CLIP_H_LAYERS = 24  # diffusers stores 23 of them for SD2, which reads the last but one

Parts = Mapping[Part, tuple[str, Tensors]]  # prefix and tensors of each part that is there


def find_parts(tensors: Tensors, family: Family, prefix: str, denoiser: Tensors) -> Parts:
    """Where each part lies, and what lies there."""
    parts: dict[Part, tuple[str, Tensors]] = {"denoiser": (prefix, denoiser)}
    for part, usual in PREFIXES[family].items():
        for candidate in (usual, *OTHER_PREFIXES.get(part, ())) if part != "denoiser" else ():
            found = {key: info for key, info in part_tensors(tensors, candidate).items() if not is_nuisance(key)}
            if found:
                parts[part] = (candidate, found)
                break
    return parts


def part_sources(header: Header, parts: Parts, layouts: Mapping[str, Layout]) -> dict[Part, PartSource]:
    """Each part's place in the file; ``layouts`` as in ``checkpoint``."""
    return {
        part: part_source((header.path,), prefix, tensors, layouts.get(prefix) or layout_of(tensors))
        for part, (prefix, tensors) in parts.items()
    }


def layout_of(tensors: Tensors) -> Layout:
    """The naming of a text encoder's keys."""
    for key, layout in _LAYOUT_KEYS.items():
        if key in tensors:
            return layout
    return "canonical"


def encoder_configs(parts: Parts, metadata: Mapping[str, str]) -> Mapping[Part, CLIPConfig | T5Config]:
    """The config of every text encoder that is there."""
    found: dict[Part, CLIPConfig | T5Config] = {}
    for part, (_, tensors) in parts.items():
        if part == "t5":
            found[part] = easel_metadata.overridden(measure.t5_config(tensors), metadata, "easel.t5")
        elif part not in ("denoiser", "vae"):
            found[part] = clip_config(part, tensors, metadata)
    return found


def clip_config(part: Part, tensors: Tensors, metadata: Mapping[str, str]) -> CLIPConfig:
    """The CLIP tower of these keys. Raises ModelCorrupt: decisive ones are missing or do not fit the metadata."""
    measured = measure.clip_config(tensors, is_clip_l=part == "clip_l")
    if part == "clip_h" and measured.layers == _CLIP_H_LAYERS - 1:
        measured = replace(measured, cut=1)
    config = easel_metadata.overridden(measured, metadata, f"easel.{part}")
    check_divides(config.heads, config.width, f"heads of {part}")
    if max(config.bos, config.eos, config.pad) >= config.vocab_size:
        raise ModelCorrupt(f"The header field easel.{part} names a token beyond the vocabulary.")
    return config


def vae_config(tensors: Tensors, metadata: Mapping[str, str]) -> VAEConfig:
    """The autoencoder of these keys. Raises ModelCorrupt: decisive ones are missing or do not fit the metadata."""
    config = easel_metadata.overridden(measure.vae_config(tensors), metadata, "easel.vae")
    for mult in config.channel_mult:
        check_divides(config.norm_groups, config.channels * mult, "norm groups of the VAE")
    return config


def latent_constants(published: LatentConstants, channels: int, metadata: Mapping[str, str]) -> LatentConstants:
    """The published constants with what the file says instead. Raises ModelCorrupt: they have other channels."""
    latent = easel_metadata.overridden(published, metadata, "easel.latent")
    if latent.channels != channels or len(latent.rgb_factors) != channels:
        raise ModelCorrupt(f"The latent has {channels} channels; {latent.channels} are known for this family.")
    return latent


def check_divides(part: int, whole: int, what: str) -> None:
    """Refuse groups or heads that do not divide their width."""
    if whole % part:
        raise ModelCorrupt(f"{part} {what} do not divide its width {whole}.")
