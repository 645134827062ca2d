"""What a picture says of its making: written into our files, read from ours and A1111's.

Our files carry the whole request as JSON beside A1111's text, so that what comes back is the very request. What comes
from strangers is checked field by field: notes tell what was left out, nothing in a file can raise.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from backend.errors import BadRequest, unknown_name
from backend.records.containers import DOCUMENT, JPEG_MAGIC, PARAMETERS, PNG_MAGIC, texts_of
from backend.records.panel_words import Files
from backend.records.parameters_text import parameters_text
from backend.records.read_parameters import Parsed, read_parameters
from backend.records.registry import Registry, core_registry
from backend.request import FIELDS, SCHEMA_VERSION, GenerationRequest, parse_request, request_to_json

__all__ = [
    "Parsed",
    "PictureInfo",
    "document",
    "parameters_text",
    "parse_parameters",
    "read_parameters",
    "read_picture",
]

Source = Literal["easel", "a1111", "comfyui", "none"]
MAX_NOTES = 20
_CONTRADICTING = ("guidance_start", "guidance_end", "mask")
MAX_FACTS = 50
MAX_FACT = 500  # characters
MAX_PARAMETERS = 1_000_000  # characters shown of a text


@dataclass(frozen=True, kw_only=True)
class PictureInfo:
    """What a picture file tells; every text in it is a stranger's: show it as text only.

    Attributes:
        parameters: the A1111-style text, "" if there is none.
        request: request fields: all of them for our files (the whole order), those that were understood otherwise.
        picture: as ``request``, for this picture of a batch alone: its own seed, batch size and count 1.
        index: place of the picture in its order, 0 ..; None if not ours.
        leftovers: keys of the text that have no place in a request.
    """

    parameters: str
    request: dict[str, Any] | None
    picture: dict[str, Any] | None
    index: int | None
    source: Source
    notes: tuple[str, ...] = ()
    facts: dict[str, str]
    leftovers: dict[str, str]


def document(request: GenerationRequest, facts: Mapping[str, str], *, index: int) -> str:
    """The JSON that our files carry under ``easel``: ASCII, the same for the same input."""
    told = {"schema": SCHEMA_VERSION, "index": index, "request": request_to_json(request), "facts": dict(facts)}
    return json.dumps(told, allow_nan=False)


def parse_parameters(text: str, registry: Registry | None = None) -> dict[str, Any]:
    """The valid request fields of a parameters text; ``read_parameters`` tells the rest too."""
    return read_parameters(text, registry or core_registry()).fields


def read_picture(data: bytes | Path, registry: Registry | None = None, files: Files | None = None) -> PictureInfo:
    """What a PNG, JPEG or WebP tells of its making; no pixel is decoded.

    Args:
        files: see ``read_parameters``.
    Raises:
        BadRequest: it is none of these, or the file cannot be read.
    """
    raw = _bytes_of(data)
    texts = texts_of(raw)
    parameters = _clean(texts.get(PARAMETERS, ""), MAX_PARAMETERS)
    notes: list[str] = []
    if DOCUMENT in texts:
        ours = _read_document(texts[DOCUMENT], parameters, notes)
        if ours is not None:
            return ours
    if parameters:
        parsed = read_parameters(parameters, registry or core_registry(), files)
        return PictureInfo(
            parameters=parameters,
            request=parsed.fields,
            picture=parsed.fields,
            index=None,
            source="a1111",
            notes=(*notes, *parsed.notes),
            facts=parsed.facts,
            leftovers=parsed.leftovers,
        )
    source: Source = "none"
    if "workflow" in texts:
        source = "comfyui"
        notes.append("The picture holds a ComfyUI workflow, which Easel does not read.")
    return PictureInfo(
        parameters="", request=None, picture=None, index=None, source=source, notes=tuple(notes), facts={}, leftovers={}
    )


def _bytes_of(data: bytes | Path) -> bytes:
    if isinstance(data, Path):
        try:
            data = data.read_bytes()
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise BadRequest(f"{data.name} cannot be read ({reason}).", "Check the path.") from error
    if data.startswith((PNG_MAGIC, JPEG_MAGIC)) or (data[:4] == b"RIFF" and data[8:12] == b"WEBP"):
        return data
    raise BadRequest("This is no picture that Easel can read.", "Send a PNG, JPEG or WebP file.")


def _read_document(text: str, parameters: str, notes: list[str]) -> PictureInfo | None:
    try:
        told = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        notes.append("Easel's own record in the picture is damaged; the parameters text is used instead.")
        return None
    if not isinstance(told, dict) or not isinstance(told.get("request"), dict):
        notes.append("Easel's own record in the picture is not one; the parameters text is used instead.")
        return None
    schema = told.get("schema")
    if schema != SCHEMA_VERSION:
        notes.append(f"The picture was made by another version of Easel (schema {_clean(str(schema), 20)}).")
    request = _sifted(told["request"], notes)
    index = told.get("index")
    if not isinstance(index, int) or not 0 <= index < request.batch_size * request.batch_count:
        index = 0
    facts = told.get("facts")
    return PictureInfo(
        parameters=parameters,
        request=request_to_json(request),
        picture=request_to_json(_alone(request, index)),
        index=index,
        source="easel",
        notes=tuple(notes[:MAX_NOTES]),
        facts=_texts(facts) if isinstance(facts, dict) else {},
        leftovers={},
    )


def _sifted(values: Mapping[str, Any], notes: list[str]) -> GenerationRequest:
    """The request of all fields that are valid; a note for each that is not."""
    notes += [_clean(unknown_name("Field", str(key), FIELDS), 300) for key in values if key not in FIELDS][:MAX_NOTES]
    good = {key: value for key, value in values.items() if key in FIELDS}
    while True:
        try:
            return parse_request(good)
        except BadRequest as error:
            # A refusal without a field is of fields that contradict each other (see GenerationRequest).
            dropped = [error.field] if error.field else [name for name in _CONTRADICTING if name in good]
            named = "" if error.field else f" {', '.join(dropped)}."
            notes.append(_clean(f"Left out:{named} {error}", 300))
            for name in dropped:
                good.pop(name, None)


def _alone(request: GenerationRequest, index: int) -> GenerationRequest:
    if request.seed == -1:
        return replace(request, batch_size=1, batch_count=1)
    seed, variation = request.seeds_of(index)
    try:
        return replace(request, seed=seed, variation_seed=variation, batch_size=1, batch_count=1)
    except ValueError:  # a stranger's seed at the very end of the range
        return replace(request, batch_size=1, batch_count=1)


def _texts(facts: Mapping[Any, Any]) -> dict[str, str]:
    pairs = [(key, value) for key, value in facts.items() if isinstance(value, str | int | float | bool)]
    return {_clean(str(key), 80): _clean(str(value), MAX_FACT) for key, value in pairs[:MAX_FACTS]}


def _clean(text: str, limit: int) -> str:
    """Text that can be sent as UTF-8: JSON may smuggle in lone surrogates."""
    return text[:limit].encode("utf-8", "replace").decode()


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON")
