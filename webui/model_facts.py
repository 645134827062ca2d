"""What a model file is, for page, REST and the command line alike: names and facts, no paths of the machine."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from backend.formats.adapters import AdapterInfo
from backend.formats.configs import CheckpointInfo, EncoderInfo, OtherFile, PreviewInfo, VaeInfo
from backend.formats.control_configs import ControlInfo
from backend.formats.embeddings import EmbeddingInfo
from backend.formats.inputs import extra_inputs
from backend.records.compose import ENCODER_NAMES
from backend.records.hashes import HASH_DIGITS

if TYPE_CHECKING:
    from backend.records.entries import ModelEntry
    from backend.records.model_files import ModelFiles


def model_json(entry: ModelEntry, *, sha256: str | None = None) -> dict[str, Any]:
    """One file: ``kind`` is checkpoint, VAE, what it is called otherwise, or null for one that cannot be read.

    Args:
        sha256: all digits, if they are known; ``hash`` is A1111's part of them.
    """
    address = f"/api/v1/models/{entry.id}"
    return {
        "id": entry.id,
        "name": entry.name,
        "file": printable(entry.path.name),
        "folder": entry.folder,
        "root": entry.root,
        "read": entry.is_read,
        "settling": entry.settling,
        "hash": None if sha256 is None else sha256[:HASH_DIGITS],
        "preview": None if entry.preview is None else f"{address}/preview?v={entry.preview[1]}",
        "has_notes": bool(entry.note_files),
        "bytes": entry.file_bytes,
        "usable": entry.usable,
        "sentence": entry.sentence,
        "error": None if entry.error is None else entry.error.to_json(),
        **_info_json(entry),
    }


def models_json(files: ModelFiles) -> tuple[int, dict[str, Any]]:
    """Every model file, and the version of the list that it is of."""
    version = files.version  # read first: what changes meanwhile is told again under the next number
    entries = files.listing()
    told = {
        "version": version,
        "troubles": list(files.troubles),
        "unread": sum(not entry.is_read for entry in entries),
        "models": [model_json(entry, sha256=files.known_sha256(entry)) for entry in entries],
    }
    return version, told


def _no_info() -> dict[str, Any]:
    """What can be told of a file, as it is where nothing is."""
    return {
        "kind": None,
        "family": None,
        "made_for": None,
        "inputs": None,
        "variant": None,
        "precision": None,
        "prediction": None,
        "prediction_source": None,
        "zero_terminal_snr": None,
        "parts": {},
        "files": {},
        "defaults": None,
        "notes": [],
        "vectors": [],
        "rank": None,
        "words": [],
        "questions": [],
    }


def _info_json(entry: ModelEntry) -> dict[str, Any]:
    """What its header told; every fact is there, null or empty where the file has none."""
    info = entry.info
    told = _no_info()
    if isinstance(info, CheckpointInfo):
        told |= {
            "kind": "checkpoint",
            "family": info.family,
            "inputs": extra_inputs(info.denoiser),
            "variant": info.variant,
            "precision": info.precision,
            "prediction": info.prediction,
            "zero_terminal_snr": info.zero_terminal_snr,
            "parts": {part: source.bytes for part, source in info.sources.items()},
            "defaults": asdict(info.defaults),
            "notes": list(info.notes),
            "questions": _questions(entry, info),
            "files": dict(info.companions),
            "prediction_source": info.prediction_source,
        }
    elif isinstance(info, EmbeddingInfo):
        rows = [{"part": row.part, "count": row.count, "width": row.width} for row in info.vectors]
        told |= {"kind": "textual inversion", "variant": info.made_for or None, "vectors": rows}
    elif isinstance(info, AdapterInfo):
        told |= {
            "kind": ", ".join(info.kinds),
            "made_for": info.made_for or None,
            "rank": info.rank,
            "words": list(info.words),
        }
    elif isinstance(info, EncoderInfo):
        told |= {
            "kind": f"{ENCODER_NAMES[info.part]} text encoder",
            "precision": info.precision,
            "parts": {info.part: info.source.bytes},
            "notes": list(info.notes),
        }
    elif isinstance(info, VaeInfo):
        told |= {
            "kind": "VAE",
            "made_for": info.made_for or None,
            "precision": info.precision,
            "notes": list(info.notes),
            "questions": _questions(entry, info),
        }
    elif isinstance(info, PreviewInfo):
        told |= {"kind": "preview decoder", "precision": info.source.precision}
    elif isinstance(info, ControlInfo):
        told |= {"kind": info.kind, "family": info.family}
    elif isinstance(info, OtherFile):
        told |= {"kind": info.kind, "made_for": info.family or None}
    return told


def _questions(entry: ModelEntry, info: CheckpointInfo | VaeInfo) -> list[dict[str, Any]]:
    return [{**asdict(question), "answer": entry.answers.get(question.about)} for question in info.questions]


def printable(name: str) -> str:
    """A file name that can be sent as UTF-8: one that cannot be decoded holds surrogates."""
    return name.encode("utf-8", "replace").decode()
