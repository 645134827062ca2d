"""Text encoders in files of their own (models/text_encoders): which one it is, by keys and width.

Sources: FORMATS.md 2.3; ComfyUI ``comfy/sd.py`` load_clip, ``text_encoders/``.
"""

from __future__ import annotations

from collections.abc import Mapping

from backend.errors import ModelUnsupported
from backend.formats import easel_metadata, measure, quantised
from backend.formats.checkpoint import PART_NAMES
from backend.formats.complete import check_complete
from backend.formats.configs import EncoderInfo, Part
from backend.formats.layout import PREFIXES, is_nuisance
from backend.formats.measure import Tensors
from backend.formats.parts import clip_config, layout_of
from backend.formats.reader import Header
from backend.formats.storage import part_source

#: Width of the published CLIP towers -> which one it is; a narrow one says so in its metadata (``easel.clip_l``).
_CLIP_WIDTHS: Mapping[int, Part] = {768: "clip_l", 1280: "clip_g", 1024: "clip_h"}
#: Where the token table of a CLIP tower may stand: Hugging Face, without ``text_model.``, open_clip.
_CLIP_TOKENS = (
    "text_model.embeddings.token_embedding.weight", "embeddings.token_embedding.weight", "token_embedding.weight",
)  # fmt: skip
_T5_KEY = "encoder.block.0.layer.1.DenseReluDense.wi_0.weight"
#: Beside a text tower these make a whole CLIP or a whole T5, or another thing altogether.
_FOREIGN = ("vision_model.", "visual.", "decoder.", "lora_")
_OTHER_PREFIXES = ("transformer.", "text_encoder.", "text_encoder_2.", "text_encoder_3.")
_PREFIXES = dict.fromkeys(
    (
        "",
        *(prefix for parts in PREFIXES.values() for part, prefix in parts.items() if part not in ("denoiser", "vae")),
        *_OTHER_PREFIXES,
    )
)


def encoder_file(header: Header) -> EncoderInfo | None:
    """The one text encoder that a file holds and nothing else; None if it is no such file.

    Raises:
        ModelCorrupt: if tensors are missing, over, or misshapen.
        ModelUnsupported: its numbers are in a format that is not known.
    """
    for prefix in _PREFIXES:
        if not any(prefix + key in header.tensors for key in (*_CLIP_TOKENS, _T5_KEY)):
            continue
        keys = [key for key in header.tensors if not is_nuisance(key)]
        if not all(key.startswith(prefix) and not key[len(prefix) :].startswith(_FOREIGN) for key in keys):
            continue
        if refusal := quantised.refusal(header):
            raise ModelUnsupported(f"{header.path.name}: {refusal}")
        tensors = {key[len(prefix) :]: header.tensors[key] for key in keys}
        return _encoder(header, prefix, tensors)
    return None


def _encoder(header: Header, prefix: str, tensors: Tensors) -> EncoderInfo | None:
    if _T5_KEY in tensors:
        part: Part | None = "t5"
        config = easel_metadata.overridden(measure.t5_config(tensors), header.metadata, "easel.t5")
    else:
        part = _which_clip(tensors, header.metadata)
        if part is None:
            return None
        config = clip_config(part, tensors, header.metadata)
    check_complete(config, tensors, PART_NAMES[part])
    return EncoderInfo(
        path=header.path,
        name=header.path.stem,
        part=part,
        config=config,
        source=part_source((header.path,), prefix, tensors, layout_of(tensors)),
    )


def _which_clip(tensors: Tensors, metadata: Mapping[str, str]) -> Part | None:
    said: list[Part] = [part for part in _CLIP_WIDTHS.values() if f"easel.{part}" in metadata]
    if len(said) == 1:
        return said[0]
    shape = next(tensors[key].shape for key in _CLIP_TOKENS if key in tensors)
    return _CLIP_WIDTHS.get(shape[1]) if len(shape) == 2 else None
