"""The model files that a user has, as they are listed; what cannot be used is listed with its sentence.

An entry is what a file's header told (``found_files``), completed by the text encoders beside it, as a person answered
where the file cannot tell.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from backend.errors import BadRequest, NotFound, unknown_name
from backend.formats.answers import check_answer
from backend.formats.configs import CheckpointInfo, EncoderInfo, VaeInfo
from backend.records.answers import ModelAnswers
from backend.records.compose import lacks_encoders
from backend.records.entries import ModelEntry, make_entry
from backend.records.found_files import FoundFile, FoundFiles
from backend.records.hashes import ModelHashes
from backend.records.places import Folder, own_places
from backend.records.readings import Readings, Stamp
from backend.records.trees import read_trees
from backend.records.walk import folder_stamp
from backend.settings import Settings


class ModelFiles:
    """The files below a models folder and other programs' trees; usable from several threads.

    Args:
        models_dir: the folder of checkpoints/, vae/ ...
        models_from: trees of other programs, see ``trees``.
        hashes, readings, answers: files that remember; None: beside the models, or not at all.
    """

    def __init__(
        self,
        models_dir: Path,
        *,
        models_from: Sequence[Path] = (),
        hashes: Path | None = None,
        readings: Path | None = None,
        answers: Path | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        tree = read_trees(models_from)
        self.troubles = tree.troubles
        self._hashes = ModelHashes(hashes or models_dir / ".hashes.json")
        self._answers = ModelAnswers(answers)
        self._found = FoundFiles([*own_places(models_dir), *tree.places], Readings(readings), clock)
        self._heeded: tuple[object, object] = (self._hashes.version, self._answers.version)
        self._supply: tuple[int, tuple[EncoderInfo, ...]] = (-1, ())

    @classmethod
    def of(cls, settings: Settings) -> ModelFiles:
        """The files that the settings name."""
        data = settings.data_dir
        return cls(
            settings.models_dir,
            models_from=settings.models_from,
            hashes=data / "hashes.json",
            readings=data / "models.sqlite",
            answers=data / "answers.json",
        )

    @property
    def version(self) -> int:
        """Rises whenever ``listing`` would differ."""
        return self._found.version

    # -- looking

    def look(self) -> bool:
        """Go through the folders: new, changed and vanished files are noticed, and none is opened."""
        return self._found.look()

    def read_on(self, seconds: float, *, breath: float = 0.0) -> bool:
        """Read headers that have not been read, see ``FoundFiles.read_on``; True if some are left."""
        return self._found.read_on(seconds, breath=breath)

    # -- asking

    def listing(self) -> list[ModelEntry]:
        """Every file as it is known now, by folder and name: after the first time nothing is walked or opened."""
        if not self._found.were_looked_for:
            self.look()
        with self._found.lock:
            return [self._entry(file) for file in self._found.all()]

    def models(self) -> list[ModelEntry]:
        """Every file, all looked at and read now."""
        self.look()
        while self.read_on(3600):
            continue
        return self.listing()

    def find(self, name: str, folder: Folder = "checkpoints") -> ModelEntry:
        """The entry of a name, a file name or a bare stem, whatever its case; usable ones before others.

        Raises:
            NotFound: with the nearest name.
        """
        entry = self.match(name, folder)
        if entry is None or not _is_fresh(entry):
            self.look()
            entry = self.match(name, folder)
        if entry is not None:
            return entry
        word, about = _WORDS.get(folder, ("File", ""))
        known = [
            entry.name for entry in self.listing() if entry.folder == folder and (entry.usable or not entry.is_read)
        ]
        todo = f"Put the file into models/{folder}, or choose another."
        raise NotFound(unknown_name(word, name, known), todo, field=about or None)

    def match(self, name: str, folder: Folder = "checkpoints") -> ModelEntry | None:
        """What ``find`` gives of the files that are known now; None if there is none of that name."""
        wanted = name.replace("\\", "/")
        files = self._found.that_may_be_in(folder)
        for spellings in _SPELLINGS:
            for fold in (str, str.casefold):
                folded = fold(wanted)
                matches = [file for file in files if any(fold(spell(file)) == folded for spell in spellings)]
                entries = [entry for file in matches if (entry := self._seen(file)).folder == folder]
                if entries:
                    return next((entry for entry in entries if entry.usable), entries[0])
        return None

    def folder(self, folder: Folder, *, look: bool = True) -> list[ModelEntry]:
        """Every file of one folder, read now; without ``look`` only those that are known already."""
        if look or not self._found.were_looked_for:
            self.look()
        files = self._found.that_may_be_in(folder)
        self.heed()
        return [entry for file in files if (entry := self._seen(file, heed=False)).folder == folder]

    def lying_in(
        self, folder: Folder, *, order: Callable[[str], tuple[int, str]] | None = None
    ) -> Iterator[ModelEntry]:
        """The files that lie in a folder and are known already, whatever they are; each is read as it is come to.

        Args:
            order: what to sort names by; None: as they are listed.
        """
        files = self._found.in_folder(folder)
        if order is not None:
            files.sort(key=lambda file: order(file.name))
        return (self._seen(file) for file in files)

    def by_hash(self, digits: str, folder: Folder = "checkpoints") -> ModelEntry | None:
        """The usable file whose sha256 begins so (A1111 writes ten digits), as far as hashes are known."""
        digits = digits.strip().lower()
        if len(digits) < 8:
            return None
        for file in self._found.in_folder(folder):
            sha256 = self._hashes.of(file.found.path, *file.found.stamp[:2])
            if sha256 is not None and sha256.startswith(digits) and self._seen(file).usable:
                return self._seen(file)
        return None

    def entry(self, entry_id: str) -> ModelEntry:
        """The entry of this id, which a listing told. Raises ``NotFound``."""
        for entry in self.listing():
            if entry.id == entry_id:
                return entry
        raise NotFound("This model file is not there (any more).", "Look at the Models tab.")

    # -- hashes and answers

    def model_hash(self, path: Path) -> str:
        """A1111's hash (10 hex of sha256). It stands in the metadata: compute it before a picture is saved."""
        return self._hashes.get(path)

    def known_sha256(self, entry: ModelEntry) -> str | None:
        """All 64 digits, if they are known; nothing is computed."""
        return self._hashes.of(str(entry.path), *entry.stamp[:2])

    def compute_hash(self, entry: ModelEntry, *, pause: Callable[[], bool]) -> None:
        """Compute and remember the hash of a file in passing; raises as ``ModelHashes.compute``."""
        self._hashes.compute(entry.path, pause=pause)

    def answer(self, entry: ModelEntry, about: str, answer: str | None) -> None:
        """Remember what a person says of a file that cannot tell it itself; it counts at once. None takes it back.

        Raises:
            BadRequest: the file raises no such question, or the answer is none of its options.
            DiskFull: it could not be remembered.
        """
        if not isinstance(entry.info, CheckpointInfo | VaeInfo):
            raise BadRequest(f"There is nothing to answer about {entry.name}.", field="about")
        check_answer(entry.info, about, answer)
        self._answers.set(str(entry.path), entry.stamp, self.known_sha256(entry), about, answer)
        self.heed()

    def heed(self) -> None:
        """Notice what was learnt since, by this process or the other: hashes, and answers to questions."""
        hashes, answers = self._hashes.version, self._answers.version
        with self._found.lock:
            if (hashes, answers) == self._heeded:
                return
            if answers != self._heeded[1]:
                for file in self._found.all():
                    file.entry = None
            self._heeded = (hashes, answers)
            self._found.count_change()

    def settle_answers(self) -> None:
        """Keep answers by hash where it is known by now; for one process alone to do. Raises ``DiskFull``."""
        self._answers.settle(self._hashes.of)

    # -- one file

    def _seen(self, file: FoundFile, *, heed: bool = True) -> ModelEntry:
        """The entry of a file, read if it has not been."""
        if heed:
            self.heed()
        self._found.read(file)
        if isinstance(file.told, CheckpointInfo) and lacks_encoders(file.told):
            for each in self._found.in_folder("text_encoders"):
                self._found.read(each)
        with self._found.lock:
            return self._entry(file)

    def _entry(self, file: FoundFile) -> ModelEntry:
        encoders = self._encoders()
        if file.entry is None:
            file.entry = make_entry(
                file.place, file.found, file.name, file.told,
                settling=file.again_at is not None, answers_of=self._answers_of, encoders=encoders,
            )  # fmt: skip
        return file.entry

    def _answers_of(self, path: str, stamp: Stamp) -> Mapping[str, str]:
        return self._answers.of(path, stamp, self._hashes.of(path, *stamp[:2]))

    def _encoders(self) -> tuple[EncoderInfo, ...]:
        """Files of text encoders as far as they are read; when they change, checkpoints are composed anew."""
        if self._supply[0] != self.version:
            files = self._found.in_folder("text_encoders")
            found = tuple(replace(f.told, name=f.name) for f in files if isinstance(f.told, EncoderInfo))
            if found != self._supply[1]:
                for file in self._found.in_folder("checkpoints"):
                    file.entry = None
            self._supply = (self.version, found)
        return self._supply[1]


#: What a file of a folder is called in a sentence, and the request field that names it.
_WORDS: Mapping[str, tuple[str, str]] = {
    "checkpoints": ("Checkpoint", "checkpoint"),
    "vae": ("VAE", "vae"),
    "text_encoders": ("Text encoder", ""),
    "loras": ("LoRA", "prompt"),
}

#: How a request may write a name, most exact first; those in one row are equally good.
_SPELLINGS: Sequence[Sequence[Callable[[FoundFile], str]]] = (
    (lambda file: file.name, lambda file: file.found.name),
    (lambda file: file.found.below,),
    (lambda file: file.found.name.rpartition("/")[2],),
    (lambda file: file.found.below.rpartition("/")[2],),
)


def _is_fresh(entry: ModelEntry) -> bool:
    """Whether the file on disk is still the one that was read."""
    if entry.path.is_dir():
        return folder_stamp(str(entry.path)) == entry.stamp
    try:
        status = entry.path.stat()
    except OSError:
        return False
    return entry.stamp[:2] == (status.st_size, status.st_mtime_ns)
