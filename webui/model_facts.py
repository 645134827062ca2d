"""What a model file is, for page, REST and the command line alike: names and facts, no paths of the machine."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from backend.formats.configs import CheckpointInfo, OtherFile, VaeInfo

if TYPE_CHECKING:
    from backend.records.catalog import ModelEntry


def model_json(entry: ModelEntry) -> dict[str, Any]:
    """One file: ``kind`` is checkpoint, VAE, what it is called otherwise, or null for one that cannot be read."""
    told: dict[str, Any] = {
        "name": entry.name,
        "file": entry.path.name,
        "folder": entry.folder,
        "bytes": entry.file_bytes,
        "usable": entry.usable,
        "sentence": entry.sentence,
        "error": None if entry.error is None else entry.error.to_json(),
        "kind": None,
        "family": None,
        "variant": None,
        "precision": None,
        "prediction": None,
        "parts": {},
        "defaults": None,
        "notes": [],
        "questions": [],
    }
    info = entry.info
    if isinstance(info, CheckpointInfo):
        told |= {
            "kind": "checkpoint",
            "family": info.family,
            "variant": info.variant,
            "precision": info.precision,
            "prediction": info.prediction,
            "parts": {part: source.bytes for part, source in info.sources.items()},
            "defaults": asdict(info.defaults),
            "notes": list(info.notes),
            "questions": [asdict(question) for question in info.questions],
            "prediction_source": info.prediction_source,
        }
    elif isinstance(info, VaeInfo):
        told |= {"kind": "VAE"}
    elif isinstance(info, OtherFile):
        told |= {"kind": info.kind}
    return told
