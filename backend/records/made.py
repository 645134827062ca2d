"""Pictures that are on disk already, found by what they say of their making, so that none is made twice.

The seed in a file's name says which files are worth reading; the record within decides: the same request, the same
place in it, made with the same model files, arithmetic and version. No index is kept that could be out of step.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from backend.records.containers import DOCUMENT, PARAMETERS, texts_of

_NAME = re.compile(r"\d{5,}-(\d+)-([0-9A-Za-z]{1,8})-\d+\.(?:png|jpg|webp)", re.ASCII)
#: The facts that count: others follow from the request, and are known only while the picture is made.
_COMPARED = (
    "model_hash",
    "refiner_hash",
    "vae_hash",
    "lora_hashes",
    "file_hashes",
    "device",
    "dtype",
    "guidance",
    "version",
)


class MadePicture(NamedTuple):
    """A file and the parameters text in it."""

    path: Path
    parameters: str


class MadePictures:
    """Finds pictures in an outputs folder.

    Args:
        folder: of the days' folders.
        job: the part of a job's id that file names carry: pictures of other jobs do not count; None: all do.
    """

    def __init__(self, folder: Path, job: str | None) -> None:
        self._folder = folder
        self._job = job
        self._by_seed: dict[str, list[Path]] | None = None
        self._by_record: dict[str, dict[str, MadePicture]] = {}  # seed -> record -> file

    def find(self, seed: int, record: str) -> MadePicture | None:
        """The whole picture whose name has this seed and whose record is this one; see ``metadata.document``."""
        if self._by_seed is None:
            self._by_seed = self._listed()
        name = str(seed)
        if name not in self._by_record:
            self._by_record[name] = dict(filter(None, map(_read, self._by_seed.get(name, ()))))
        found = self._by_record[name].get(_comparable(json.loads(record)))
        return found if found is not None and _is_whole(found.path) else None

    def _listed(self) -> dict[str, list[Path]]:
        found: dict[str, list[Path]] = {}
        try:
            days = sorted(each for each in self._folder.iterdir() if each.is_dir() and not each.name.startswith("."))
            for path in (path for day in days for path in day.iterdir()):
                match = _NAME.fullmatch(path.name)
                if match and self._job in (None, match[2]):
                    found.setdefault(match[1], []).append(path)
        except OSError:
            return found  # what cannot be listed is made again
        return found


def _read(path: Path) -> tuple[str, MadePicture] | None:
    """A file's record and what to know of it; None of a file without one."""
    try:
        texts = texts_of(path.read_bytes())
        told = json.loads(texts.get(DOCUMENT, "null"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(told, dict) or not isinstance(told.get("facts"), dict):
        return None
    return _comparable(told), MadePicture(path, texts.get(PARAMETERS, ""))


def _comparable(record: dict[str, Any]) -> str:
    facts = {name: value for name, value in record["facts"].items() if name in _COMPARED}
    return json.dumps({**record, "facts": facts}, sort_keys=True)


def _is_whole(path: Path) -> bool:
    try:
        with Image.open(path) as image:
            image.load()
    except (OSError, SyntaxError, ValueError):
        return False
    return True
