"""Hashes of the job's model files, computed while the picture is made: they stand in its metadata, always."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from backend.engine.adapters import AdapterShelf
from backend.engine.job import Job
from backend.errors import UserError
from backend.records.hashes import a1111_hash
from backend.records.model_files import ModelFiles
from backend.records.panels import references
from backend.records.places import folder_named

if TYPE_CHECKING:
    from backend.engine.engine import Engine


class HashInBackground:
    """Starts at once; ``wait`` before a picture is saved."""

    def __init__(self, engine: Engine, job: Job, adapters: Sequence[Path]) -> None:
        self._result: dict[str, str] = {}
        self._trouble = ""
        named = [(folder, name) for kind, folder, name in references(job.request, engine.registry) if kind == "folder"]
        work = (engine.catalog.files, job, engine.adapters, adapters, dict.fromkeys(named))
        self._thread = threading.Thread(target=self._compute, args=work, name="hashes", daemon=True)
        self._thread.start()

    def _compute(
        self,
        files: ModelFiles,
        job: Job,
        shelf: AdapterShelf,
        adapters: Sequence[Path],
        named: Iterable[tuple[str, str]],
    ) -> None:
        try:
            found = [(f"{folder}/{name}", files.find(name, folder_named(folder)).path) for folder, name in named]
            if found:  # of files that panels name; A1111 calls ControlNets by it
                self._result["file_hashes"] = ", ".join(f"{name}: {a1111_hash(path)}" for name, path in found)
            if adapters:  # as A1111 writes it
                self._result["lora_hashes"] = ", ".join(f"{path.stem}: {shelf.hash_of(path)}" for path in adapters)
            self._result["model_hash"] = files.model_hash(job.info.sources["denoiser"].paths[0])
            if job.refiner:
                self._result["refiner_hash"] = files.model_hash(job.refiner.info.sources["denoiser"].paths[0])
            if job.vae:
                self._result["vae_hash"] = files.model_hash(job.vae.source.paths[0])
        except UserError as error:  # the file went away behind our back; the picture is good all the same
            self._trouble = f"The pictures carry no model hash. {error}"

    def wait(self, on_note: Callable[[str], None]) -> dict[str, str]:
        """The hashes by name of the fact; a file that went away is told of."""
        self._thread.join()
        if self._trouble:
            on_note(self._trouble)
        return self._result
