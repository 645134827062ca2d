"""Autoencoders in files of their own: for which families each may be made, which no shape of theirs tells.

Source: FORMATS.md 2.4.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from backend.formats import constants
from backend.formats.complete import check_complete
from backend.formats.configs import Family, LatentConstants, Layout, Question, VaeInfo
from backend.formats.hints import hinted
from backend.formats.kinds import Kind
from backend.formats.layout import part_tensors
from backend.formats.parts import latent_constants, vae_config
from backend.formats.reader import Header
from backend.formats.storage import part_source


@dataclass(frozen=True)
class VaeKind:
    """What an autoencoder may be made for: as written for a person, and the families that take it."""

    name: str
    channels: int
    families: frozenset[Family]


VAE_KINDS: Sequence[VaeKind] = (
    VaeKind("SDXL", 4, frozenset({"sdxl", "sdxl_refiner"})),
    VaeKind("SD1.5 or SD2", 4, frozenset({"sd1", "sd2"})),
    VaeKind("SD3 or SD3.5", 16, frozenset({"sd3"})),
    VaeKind("FLUX", 16, frozenset()),
)
#: Of files that tell their own scale; the others get those of the checkpoint beside them.
_LATENTS: Mapping[int, LatentConstants] = {4: constants.SDXL_LATENT, 16: constants.SD3_LATENT}
_SENTENCE = (
    "Autoencoders for {} have the same shapes. Until you say which this is, it may be chosen for any of them; "
    "with the wrong one, colours are off or nothing can be recognised."
)


def vae_info(header: Header, prefix: str, layouts: Mapping[str, Layout]) -> VaeInfo | Kind:
    """What an autoencoder under this prefix is.

    Raises:
        ModelCorrupt: if it is not whole, or its ``easel.*`` fields do not fit it.
    """
    tensors = part_tensors(header.tensors, prefix)
    config = vae_config(tensors, header.metadata)
    if config.latent_channels not in _LATENTS:
        return Kind(f"VAE with {config.latent_channels} latent channels", "")
    check_complete(config, tensors, "VAE")
    is_told = "easel.latent" in header.metadata
    published = _LATENTS[config.latent_channels]
    return VaeInfo(
        path=header.path,
        name=header.path.stem,
        config=config,
        latent=latent_constants(published, config.latent_channels, header.metadata) if is_told else None,
        source=part_source((header.path,), prefix, tensors, layouts.get(prefix, "canonical")),
        questions=() if is_told else (_question(config.latent_channels, header.path.stem),),
    )


def takes(info: VaeInfo, family: Family) -> bool:
    """Whether a checkpoint of the family may use it, as far as a person has said what it is."""
    kind = next((kind for kind in VAE_KINDS if kind.name == info.made_for), None)
    return kind is None or family in kind.families


def made_for(family: Family) -> str:
    """What a checkpoint's own VAE is made for, in the words of ``VAE_KINDS``."""
    return next(kind.name for kind in VAE_KINDS if family in kind.families)


def _question(channels: int, stem: str) -> Question:
    names = tuple(kind.name for kind in VAE_KINDS if kind.channels == channels)
    question = Question("latent", names, names[0], _SENTENCE.format(" and those for ".join(names)))
    return hinted(question, stem) or question
