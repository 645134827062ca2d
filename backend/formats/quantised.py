"""Weights with a scale beside them: which keys belong to which weight, and which formats of them are known.

Two namings are in circulation, both ComfyUI's: ``scale_weight`` with a marker ``scaled_fp8`` for each part, and since
late 2025 ``weight_scale`` with a JSON text for each layer, in a tensor ``comfy_quant`` or in the header's
``_quantization_metadata``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from backend.errors import ModelCorrupt, ModelUnsupported, NotFound
from backend.formats.header import Header

MARKER = "scaled_fp8"
FORMAT = "comfy_quant"
METADATA = "_quantization_metadata"
SCALES = ("scale_weight", "weight_scale")
#: Scales of a layer's input, for GPUs that multiply float8 by float8; the arithmetic here needs none.
INPUT_SCALES = ("scale_input", "input_scale")
_COMPANIONS = frozenset({*SCALES, *INPUT_SCALES, FORMAT})

#: Format as files name it -> the number formats of its weights (U8: bits that older converters wrote as bytes).
KNOWN: Mapping[str, frozenset[str]] = {
    "float8_e4m3fn": frozenset({"F8_E4M3", "U8"}),
    "float8_e5m2": frozenset({"F8_E5M2", "U8"}),
    "int8_tensorwise": frozenset({"I8"}),
}
#: What a layer's JSON may say besides; the second chooses between two ways of multiplying on a GPU.
_OPTIONS = frozenset({"format", "full_precision_matrix_mult"})
MAX_TEXT = 4096  # bytes of a layer's JSON; known ones have less than 100
_SECOND_SCALE = ".weight_scale_2"  # nvfp4 alone has two
_OTHER_VERSION = "Use the fp16, bf16 or fp8 version of the model."


def is_companion(key: str) -> bool:
    """Whether a key of a part says something about a weight beside it and is none itself."""
    return key == MARKER or key.rpartition(".")[2] in _COMPANIONS


def has_scales(keys: Iterable[str]) -> bool:
    """Whether any key is a companion of a weight, under whatever prefix."""
    return any(key.rpartition(".")[2] in (*SCALES, FORMAT, MARKER) for key in keys)


def layer_format(text: bytes | str, where: str) -> str:
    """The format that a layer's JSON names.

    Raises:
        ModelCorrupt: if it is no JSON object with a format.
        ModelUnsupported: for a format, or an option of one, that is not known; it is named.
    """
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        raise ModelCorrupt(f"{where} says in no valid JSON how it is stored.", "Download the file again.") from None
    return checked_format(said, where)


def metadata_formats(metadata: Mapping[str, str], where: str) -> dict[str, str]:
    """Layer (with the part's prefix) -> format, as the header says; empty if it says nothing.

    Raises:
        ModelCorrupt, ModelUnsupported: as ``layer_format``.
    """
    if METADATA not in metadata:
        return {}
    try:
        layers = json.loads(metadata[METADATA])["layers"]
        entries = list(layers.items())
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
        raise ModelCorrupt(f"{where} says in no valid JSON how its layers are stored.", "Download it again.") from None
    return {layer: checked_format(said, f"{layer} of {where}") for layer, said in entries}


def checked_format(said: object, where: str) -> str:
    """The known format that a layer's JSON object names; raises as ``layer_format``."""
    if not isinstance(said, dict) or not isinstance(said.get("format"), str):
        raise ModelCorrupt(f"{where} does not say in which format it is stored.", "Download the file again.")
    name = said["format"]
    options = sorted(str(option) for option, value in said.items() if option not in _OPTIONS and value)
    if name not in KNOWN or options:
        named = name[:40] + (f" with {', '.join(options)[:60]}" if options else "")
        raise ModelUnsupported(
            f"{where} is stored as {named}, which is not known. Known: {', '.join(KNOWN)}.", _OTHER_VERSION
        )
    return name


def refusal(header: Header) -> str:
    """One sentence if the header, or the JSON of a layer, shows a format that is not known; else empty.

    Raises:
        NotFound: if the file cannot be read any more.
    """
    try:
        metadata_formats(header.metadata, "The file")
        for key, text in _layer_texts(header).items():
            layer_format(text, key.removesuffix(f".{FORMAT}"))
    except (ModelCorrupt, ModelUnsupported) as error:
        return str(error)
    if any(key.endswith(_SECOND_SCALE) for key in header.tensors):
        return f"Its weights are stored as nvfp4, which is not known. Known: {', '.join(KNOWN)}. {_OTHER_VERSION}"
    return ""


def _layer_texts(header: Header) -> dict[str, bytes]:
    """The JSON of every layer that has one; hundreds of small reads, a few milliseconds."""
    places = {key: info for key, info in header.tensors.items() if key.endswith(f".{FORMAT}")}
    if not places:
        return {}
    texts: dict[str, bytes] = {}
    try:
        with header.path.open("rb") as file:
            for key, info in places.items():
                file.seek(info.offset)
                texts[key] = file.read(min(info.bytes, MAX_TEXT))
    except OSError as error:
        raise NotFound(f"{header.path.name} cannot be read ({error.strerror}).", "Look at the models folder.") from None
    return texts
