"""Tiny decoders for live previews (models/previews): where one lies in its file, and for which families it is made.

4 channels are those of SD1.5 as well as SDXL, 16 those of SD3.5 as well as FLUX, and no key tells; the published files
are told by their names (taesd, taesdxl, taesd3, taef1). Source: FORMATS.md 2.4; diffusers ``autoencoder_tiny.py``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from backend.formats.configs import CheckpointInfo, Family, PreviewInfo, TinyDecoderConfig
from backend.formats.expected import expected_tiny_decoder
from backend.formats.families import FAMILIES
from backend.formats.reader import Header
from backend.formats.storage import part_source

Value = TypeVar("Value")

#: Prefix of the decoder's layers -> how much lower they are counted there: diffusers has no layer for the clamp.
_PLACES: Mapping[str, int] = {"": 0, "taesd_decoder.": 0, "decoder.layers.": 1, "decoder.": 0}


@dataclass(frozen=True)
class _Made:
    """What a name says of the families that a decoder is made for."""

    pattern: str
    families: frozenset[Family]


_NAMES: Sequence[_Made] = (
    _Made(r"tae(sd)?[-_ ]?xl|sdxl", frozenset({"sdxl", "sdxl_refiner"})),
    _Made(r"tae(sd)?[-_ ]?3|sd3", frozenset({"sd3"})),
    _Made(r"taef|flux", frozenset()),
    _Made(r"taesd|sd[-_ ]?v?[12]", frozenset({"sd1", "sd2"})),
)


def preview_file(header: Header) -> PreviewInfo | None:
    """The tiny decoder that a file holds, alone or beside its encoder; None if there is none, or not all of one."""
    for prefix, offset in _PLACES.items():
        tensors = renumbered(
            {key[len(prefix) :]: info for key, info in header.tensors.items() if key.startswith(prefix)}, offset
        )
        first = tensors.get("1.weight")
        if first is None or len(first.shape) != 4:
            continue
        config = TinyDecoderConfig(latent_channels=first.shape[1], width=first.shape[0])
        if {key: info.shape for key, info in tensors.items()} == expected_tiny_decoder(config):
            return PreviewInfo(header.path, header.name, config, part_source((header.path,), prefix, tensors), offset)
    return None


def renumbered(tensors: Mapping[str, Value], offset: int) -> dict[str, Value]:
    """The layers as the published files count them."""
    return {_later(key, offset): value for key, value in tensors.items()}


def decoder_for(info: CheckpointInfo, files: Sequence[PreviewInfo]) -> PreviewInfo | None:
    """The file that shows this checkpoint's latents: made for its family by its name, else by one that says nothing.

    A checkpoint with a latent space of its own has none.
    """
    published = next(row.latent for row in FAMILIES if row.name == info.family)
    ours, theirs = info.latent, published
    if (ours.scale, ours.shift, ours.means) != (theirs.scale, theirs.shift, theirs.means):
        return None
    ranked = [(rank, each.name.casefold(), each) for each in files if (rank := _rank(info, each)) is not None]
    return min(ranked, key=lambda row: row[:2])[2] if ranked else None


def _rank(info: CheckpointInfo, file: PreviewInfo) -> int | None:
    if file.config.latent_channels != info.latent.channels:
        return None
    name = file.name.rpartition("/")[2].casefold()
    made = next((row for row in _NAMES if re.search(row.pattern, name)), None)
    if made is None:
        return 1
    return 0 if info.family in made.families else None


def _later(key: str, offset: int) -> str:
    number, dot, rest = key.partition(".")
    return f"{int(number) + offset}{dot}{rest}" if offset and number.isdecimal() and len(number) <= 4 else key
