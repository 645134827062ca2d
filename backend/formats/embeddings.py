"""Textual inversions: what words a small file adds to which text encoders, read from its header.

Sources: FORMATS.md 4.3; AUTOMATIC1111 ``modules/textual_inversion``, kohya-ss/sd-scripts ``train_textual_inversion``,
diffusers ``loaders/textual_inversion.py``, ComfyUI ``comfy/sd1_clip.py`` (load_embed).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from backend.errors import ModelCorrupt
from backend.formats.configs import Part
from backend.formats.reader import Header, TensorInfo

#: Key in the file -> the encoder that it is for; None: the encoder whose width it has (SD1, SD2).
_KEYS: Mapping[str, Part | None] = {
    "clip_l": "clip_l",
    "clip_g": "clip_g",
    "clip_h": "clip_h",
    "t5xxl": "t5",
    "emb_params": None,
    "string_to_param.*": None,
}
_MADE_FOR: Mapping[frozenset[int], str] = {
    frozenset({768}): "SD1.5",
    frozenset({1024}): "SD2",
    frozenset({768, 1280}): "SDXL",
    frozenset({768, 1280, 4096}): "SD3",
}
_NUMBERS = frozenset({"F16", "BF16", "F32", "F64"})
_MAX_VECTORS = 1000  # of a lone tensor that nothing but its shape tells; published ones have up to 75
_LAYER_SUFFIXES = (".weight", ".bias")  # such a lone tensor is a piece of a network, no word


@dataclass(frozen=True)
class EmbeddingVectors:
    """Rows that stand for one word in one encoder.

    Attributes:
        part: the encoder; None: whichever CLIP has this width.
        key: the tensor in the file, (count, width), or (width,) for a single row.
    """

    part: Part | None
    key: str
    count: int
    width: int


@dataclass(frozen=True)
class EmbeddingInfo:
    """A textual inversion (models/embeddings); its word in a prompt is the file's name.

    ``trouble``: why the file cannot be used, which then has no vectors.
    """

    path: Path
    name: str
    vectors: tuple[EmbeddingVectors, ...]
    trouble: str = ""

    @property
    def made_for(self) -> str:
        """The models whose encoders have these widths: "SDXL"; empty for none that is published."""
        return _MADE_FOR.get(frozenset(rows.width for rows in self.vectors), "")

    def for_encoder(self, part: Part, width: int) -> EmbeddingVectors | None:
        """What it has for an encoder of this width, None for nothing that fits."""
        parts = (part,) if part == "t5" else (part, None)  # those that name no encoder were made for a CLIP
        return next((each for each in self.vectors if each.width == width and each.part in parts), None)


def embedding_info(header: Header) -> EmbeddingInfo | None:
    """The embedding that a file is, or None if it is something else.

    Raises:
        ModelCorrupt: the names are an embedding's, but a tensor is no list of vectors.
    """
    named = {key: info for key, info in header.tensors.items() if key in _KEYS}
    if not named and len(header.tensors) == 1:  # as diffusers saves it, under the token it was trained as
        named = {key: info for key, info in header.tensors.items() if _could_be_vectors(key, info)}
    if not named:
        return None
    return EmbeddingInfo(header.path, header.path.stem, tuple(_rows(header, key, named[key]) for key in sorted(named)))


def _could_be_vectors(key: str, info: TensorInfo) -> bool:
    is_list = len(info.shape) == 1 or (len(info.shape) == 2 and info.shape[0] <= _MAX_VECTORS)
    return info.dtype in _NUMBERS and is_list and not key.endswith(_LAYER_SUFFIXES)


def _rows(header: Header, key: str, info: TensorInfo) -> EmbeddingVectors:
    if info.dtype not in _NUMBERS or len(info.shape) not in (1, 2) or 0 in info.shape:
        raise ModelCorrupt(
            f"{header.path.name} has the names of a textual inversion, but {key} ({info.dtype}, shape "
            f"{list(info.shape)}) is no list of vectors.",
            "Get the file again from where it was published.",
        )
    count = info.shape[0] if len(info.shape) == 2 else 1
    return EmbeddingVectors(_KEYS.get(key), key, count, info.shape[-1])
