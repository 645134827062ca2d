"""Which of our files a picture or a remembered form means: by name, else by the hash that A1111 writes beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from backend.errors import NotFound, UserError
from backend.records.catalog import VAE_OF
from backend.records.entries import ModelEntry
from backend.records.hashes import HASH_DIGITS
from backend.records.places import Folder
from webui.form import field_schema

if TYPE_CHECKING:
    from webui.studio import Studio

#: Request field -> the folder of its files, and the fact that holds their hash.
FILES: Mapping[str, tuple[Folder, str]] = {
    "checkpoint": ("checkpoints", "model_hash"),
    "vae": ("vae", "vae_hash"),
    "refiner": ("checkpoints", "refiner_hash"),
}


def known_files(
    studio: Studio, values: Mapping[str, Any], facts: Mapping[str, Any]
) -> tuple[dict[str, str], list[str]]:
    """The fields that name files, as our own names; and a sentence for each that means none, or perhaps another.

    Args:
        values: request fields, of any source.
        facts: ``model_hash``, ``vae_hash`` and ``refiner_hash``, if the source tells them.
    """
    found: dict[str, str] = {}
    notes: list[str] = []
    for field, (folder, fact) in FILES.items():
        name, digits = _text(values.get(field)), _text(facts.get(fact)).lower()
        if field in values and not name and not digits:
            found[field] = ""
            continue
        if field == "vae" and (lent := _lent_vae(studio, name)):
            found[field] = lent
            continue
        named = _usable(studio, name, folder)
        hashed = studio.catalog.files.by_hash(digits, folder) if digits else None
        title = field_schema(field)["title"]
        if hashed is not None:
            found[field] = hashed.name
            if name and hashed != named:
                notes.append(f"{title} {name!r} is {hashed.name!r} here: the hash {digits} is the same.")
        elif named is not None:
            found[field] = named.name
            sha256 = studio.catalog.files.known_sha256(named)
            if digits and sha256 is not None and not sha256.startswith(digits):
                notes.append(
                    f"{title} {named.name!r} is another file here: its hash is {sha256[:HASH_DIGITS]}, not {digits}."
                )
        elif name or digits:
            notes.append(f"{title} {name or digits!r} is not here; the chosen one stays.")
    return {field: name for field, name in found.items() if name or field != "checkpoint"}, notes


def _usable(studio: Studio, name: str, folder: Folder) -> ModelEntry | None:
    try:
        entry = studio.catalog.files.find(name, folder) if name else None
    except NotFound:
        return None
    return entry if entry is not None and entry.usable else None


def _text(value: object) -> str:
    return value[:255] if isinstance(value, str) else ""


def _lent_vae(studio: Studio, name: str) -> str:
    """The VAE of another checkpoint, if that is what the name means and it is here."""
    if not name.startswith(VAE_OF):
        return ""
    try:
        return studio.catalog.vae(name).name
    except UserError:
        return ""
