"""The model files a user has, each told apart by its header; what cannot be used is listed with its sentence.

Files are found by their names (``look``), and a header is read when somebody asks for that file or when ``read_on``
comes to it; a reading is kept on disk while path, size and time of change stay. The default checkpoint is the user's
first by name, then the shipped ones.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from backend.errors import BadRequest, ModelCorrupt, ModelUnsupported, NotFound, UserError, unknown_name
from backend.formats.adapters import AdapterInfo
from backend.formats.answers import check_answer
from backend.formats.configs import UNKNOWN, CheckpointInfo, EncoderInfo, OtherFile, PreviewInfo, VaeInfo
from backend.formats.control_configs import ControlInfo
from backend.formats.detect import detect
from backend.formats.folders import detect_folder
from backend.formats.inputs import extra_inputs
from backend.formats.preview_files import decoder_for
from backend.formats.reader import read_header
from backend.formats.vae_files import made_for
from backend.records.answers import ModelAnswers
from backend.records.compose import FILE_FIELDS, fitting_vae, lacks_encoders, with_encoders
from backend.records.entries import Info, ModelEntry, make_entry, refusal
from backend.records.hashes import ModelHashes
from backend.records.names import name_files
from backend.records.places import FOLDERS, Folder, Place, own_places
from backend.records.readings import Readings, Stamp
from backend.records.trees import read_trees
from backend.records.walk import Found, folder_stamp, walk
from backend.request import GenerationRequest
from backend.settings import Settings

Named = TypeVar("Named", ControlInfo, EncoderInfo)
DEMOS = ("demo-xl", "demo-sd3")  # shipped; a user's own files come before them
VAE_OF = "VAE of "  # before a checkpoint's name, as a request's ``vae``
SETTLED = 10.0  # seconds without a change after which a damaged file is no longer thought to be on its way


@dataclass
class _File:
    """A file as it was found, and what its header told once it was read."""

    found: Found
    place: Place
    name: str
    told: Info | UserError | None = None
    again_at: float | None = None  # when a file that may still be on its way is read again
    entry: ModelEntry | None = field(default=None, repr=False)  # made from the above when it is asked for


class Catalog:
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
        places = [*own_places(models_dir), *tree.places]
        self._places = sorted(places, key=lambda place: FOLDERS.index(place.folder))
        self._hashes = ModelHashes(hashes or models_dir / ".hashes.json")
        self._readings = Readings(readings)
        self._answers = ModelAnswers(answers)
        self._clock = clock
        self._lock = threading.RLock()
        self._walking = threading.Lock()
        self._files: dict[tuple[Place, str], _File] = {}  # in the order in which they are listed
        self._heeded: tuple[object, object] = (self._hashes.version, self._answers.version)
        self._looked = False
        self._version = 0
        self._supply: tuple[int, tuple[EncoderInfo, ...]] = (-1, ())

    @classmethod
    def of(cls, settings: Settings) -> Catalog:
        """The catalog that the settings ask for."""
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
        return self._version

    # -- looking

    def look(self) -> bool:
        """Go through the folders: new, changed and vanished files are noticed, and none is opened."""
        with self._walking:
            found = [(place, each) for place in self._distinct_places() for each in walk(place.top)]
            with self._lock:
                files: dict[tuple[Place, str], _File] = {}
                for (place, each), name in zip(found, name_files(found), strict=True):
                    key, before = (place, each.path), self._files.get((place, each.path))
                    if before is not None and before.found == each and before.name == name:
                        files[key] = before
                        continue
                    files[key] = _File(each, place, name, self._readings.get(each.path, each.stamp))
                changed = list(files.items()) != list(self._files.items())
                self._files = files
                self._readings.keep_only(each.path for _, each in found)
                self._version += changed
                self._looked = True
                return changed

    def read_on(self, seconds: float, *, breath: float = 0.0) -> bool:
        """Read headers that have not been read, for so long; True if some are left. Never holds up other callers.

        Args:
            breath: seconds to sleep after each, so that other threads come in between.
        """
        end = self._clock() + seconds
        told: dict[str, tuple[Stamp, object]] = {}
        with self._lock:
            due = [file for file in self._files.values() if self._is_due(file)]
        for file in due:
            told |= self._read(file)
            if self._clock() >= end:
                break
            if breath:
                time.sleep(breath)
        self._readings.put(told)
        return len(due) > len(told) and any(self._is_due(file) for file in due)

    # -- asking

    def listing(self) -> list[ModelEntry]:
        """Every file as it is known now, by folder and name: after the first time nothing is walked or opened."""
        if not self._looked:
            self.look()
        with self._lock:
            return [self._entry(file) for file in self._files.values()]

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
        entry = self._match(name, folder)
        if entry is None or not _is_fresh(entry):
            self.look()
            entry = self._match(name, folder)
        if entry is not None:
            return entry
        word, about = _WORDS.get(folder, ("File", ""))
        known = [
            entry.name for entry in self.listing() if entry.folder == folder and (entry.usable or not entry.is_read)
        ]
        todo = f"Put the file into models/{folder}, or choose another."
        raise NotFound(unknown_name(word, name, known), todo, field=about or None)

    def folder(self, folder: Folder, *, look: bool = True) -> list[ModelEntry]:
        """Every file of one folder, read now; without ``look`` only those that are known already."""
        if look or not self._looked:
            self.look()
        with self._lock:
            files = [file for file in self._files.values() if folder in file.place.may_hold]
        self.heed()
        return [entry for file in files if (entry := self._seen(file, heed=False)).folder == folder]

    def by_hash(self, digits: str, folder: Folder = "checkpoints") -> ModelEntry | None:
        """The usable file whose sha256 begins so (A1111 writes ten digits), as far as hashes are known."""
        digits = digits.strip().lower()
        if len(digits) < 8:
            return None
        with self._lock:
            files = [file for file in self._files.values() if file.place.folder == folder]
        for file in files:
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

    def default_checkpoint(self) -> ModelEntry:
        """The first usable checkpoint of the user's by name that makes pictures from words, else a shipped one.

        Raises:
            NotFound: there is none.
        """
        self.look()
        helpers: list[ModelEntry] = []
        with self._lock:
            files = [file for file in self._files.values() if file.place.folder == "checkpoints"]
        for file in sorted(files, key=lambda file: (DEMOS.index(file.name) if file.name in DEMOS else -1, file.name)):
            entry = self._seen(file)
            if entry.usable and not _is_helper(entry.info):
                return entry
            if entry.usable:
                helpers.append(entry)
        if helpers:
            return helpers[0]
        raise NotFound(
            "There is no checkpoint that this version can run.",
            "Put a .safetensors file of SD1.5, SD2, SDXL or SD3.5 into models/checkpoints.",
            field="checkpoint",
        )

    def checkpoint(self, name: str = "") -> CheckpointInfo:
        """What a request's ``checkpoint`` stands for; empty: the default.

        Raises:
            NotFound, ModelCorrupt, ModelUnsafe, ModelUnsupported: with field ``checkpoint``.
        """
        entry = self.find(name) if name else self.default_checkpoint()
        if isinstance(entry.info, CheckpointInfo) and entry.usable:
            return entry.info
        raise refusal(entry, "checkpoint")

    def refiner(self, name: str) -> CheckpointInfo:
        """What a request's ``refiner`` stands for; raises as ``checkpoint``, with field ``refiner``."""
        try:
            return self.checkpoint(name)
        except UserError as error:
            raise type(error)(error.what, error.todo, field="refiner") from None

    def vae(self, name: str) -> VaeInfo:
        """What a request's ``vae`` stands for, a file or "VAE of" a checkpoint; raises as ``checkpoint``."""
        owner = name.removeprefix(VAE_OF)
        if owner != name and self._match(name, "vae") is None:
            return self._vae_of(owner)
        try:
            entry = self.find(name, "vae")
        except NotFound as error:
            if self._match(name, "checkpoints") is None:
                raise
            todo = f"For the VAE in that checkpoint write {VAE_OF + name!r}."
            raise NotFound(error.what, todo, field="vae") from None
        if isinstance(entry.info, VaeInfo) and entry.usable:
            return replace(entry.info, name=entry.name)
        raise refusal(entry, "vae")

    def adapter(self, name: str, about: str = "prompt", *, unknown: bool = False) -> AdapterInfo:
        """The LoRA (or its kin) of this name, or of the name that its trainer gave it; raises as ``checkpoint``.

        Args:
            unknown: a file of no kind that Easel knows will do, too: an extension's format may read it.
        """
        try:
            entry = self.find(name, "loras")
        except NotFound as error:
            alias = name.casefold()
            usable = [each for each in self.folder("loras", look=False) if each.usable]
            found = next((each for each in usable if _alias(each.info).casefold() == alias), None)
            if found is None:
                raise NotFound(error.what, error.todo, field=about) from None
            entry = found
        if isinstance(entry.info, AdapterInfo) and entry.usable:
            return replace(entry.info, name=entry.name)
        if unknown and isinstance(entry.info, OtherFile) and entry.info.kind == UNKNOWN:
            return AdapterInfo(entry.path, entry.name, (UNKNOWN,))
        raise refusal(entry, about)

    def control(self, name: str, about: str = "extensions") -> ControlInfo:
        """The guidance network of this name; raises as ``checkpoint``."""
        return self._named(name, "controlnet", ControlInfo, about)

    def encoder(self, name: str, about: str) -> EncoderInfo:
        """What the field ``about`` of a request (``t5_file`` ...) stands for; raises as ``checkpoint``."""
        return self._named(name, "text_encoders", EncoderInfo, about)

    def _named(self, name: str, folder: Folder, kind: type[Named], about: str) -> Named:
        """A usable file of this kind, called as it is listed."""
        try:
            entry = self.find(name, folder)
        except NotFound as error:
            raise NotFound(error.what, error.todo, field=about) from None
        if isinstance(entry.info, kind) and entry.usable:
            return replace(entry.info, name=entry.name)
        raise refusal(entry, about)

    def asked_by(self, request: GenerationRequest) -> tuple[CheckpointInfo, VaeInfo | None]:
        """The checkpoint that a request means, with the text encoders and the VAE that it names or that fit.

        Raises:
            NotFound, ModelCorrupt, ModelUnsafe, ModelUnsupported: with the field at fault.
        """
        info = self.checkpoint(request.checkpoint)
        named = {about: name for about in FILE_FIELDS if (name := getattr(request, about))}
        info = with_encoders(info, {about: self.encoder(name, about) for about, name in named.items()})
        if request.vae:
            return info, self.vae(request.vae)
        return info, None if info.vae is not None else self._fitting_vae(info)

    def model_hash(self, path: Path) -> str:
        """A1111's hash (10 hex of sha256). It stands in the metadata: compute it before a picture is saved."""
        return self._hashes.get(path)

    def known_sha256(self, entry: ModelEntry) -> str | None:
        """All 64 digits, if they are known; nothing is computed."""
        return self._hashes.of(str(entry.path), *entry.stamp[:2])

    def compute_hash(self, entry: ModelEntry, *, pause: Callable[[], bool]) -> None:
        """Compute and remember the hash of a file in passing; raises as ``ModelHashes.compute``."""
        self._hashes.compute(entry.path, pause=pause)

    def answer(self, entry: ModelEntry, about: str, answer: str) -> None:
        """Remember what a person says of a file that cannot tell it itself; it counts at once.

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
        with self._lock:
            if (hashes, answers) == self._heeded:
                return
            if answers != self._heeded[1]:
                for file in self._files.values():
                    file.entry = None
            self._heeded = (hashes, answers)
            self._version += 1

    def settle_answers(self) -> None:
        """Keep answers by hash where it is known by now; for one process alone to do. Raises ``DiskFull``."""
        self._answers.settle(self._hashes.of)

    # -- parts in files of their own

    def _vae_of(self, checkpoint: str) -> VaeInfo:
        """The VAE inside a checkpoint, whose other parts need not be there."""
        try:
            entry = self.find(checkpoint)
        except NotFound as error:
            raise NotFound(error.what, error.todo, field="vae") from None
        info = entry.info
        if not isinstance(info, CheckpointInfo) or info.vae is None:
            raise ModelUnsupported(f"{entry.name} has no VAE in it.", "Choose another.", field="vae")
        # Numbers for each channel are what Playground's denoiser was trained on; its VAE is an ordinary one.
        latent = None if info.latent.means else info.latent
        return VaeInfo(
            info.path, VAE_OF + entry.name, info.vae, latent, info.sources["vae"], made_for=made_for(info.family)
        )

    def preview_decoder(self, info: CheckpointInfo) -> PreviewInfo | None:
        """The tiny decoder in models/previews that shows a checkpoint's latents; None if there is none."""
        entries = [self._seen(file) for file in self._in_folder("previews")]
        return decoder_for(
            info, [replace(e.info, name=e.name) for e in entries if e.usable and isinstance(e.info, PreviewInfo)]
        )

    def _fitting_vae(self, info: CheckpointInfo) -> VaeInfo | None:
        entries = [self._seen(file) for file in self._in_folder("vae")]
        return fitting_vae(
            info,
            [replace(each.info, name=each.name) for each in entries if each.usable and isinstance(each.info, VaeInfo)],
        )

    def _encoders(self) -> tuple[EncoderInfo, ...]:
        """Files of text encoders as far as they are read; when they change, checkpoints are composed anew."""
        if self._supply[0] != self._version:
            files = self._in_folder("text_encoders")
            found = tuple(replace(f.told, name=f.name) for f in files if isinstance(f.told, EncoderInfo))
            if found != self._supply[1]:
                for file in self._in_folder("checkpoints"):
                    file.entry = None
            self._supply = (self._version, found)
        return self._supply[1]

    def _in_folder(self, folder: Folder) -> list[_File]:
        with self._lock:
            return [file for file in self._files.values() if file.place.folder == folder]

    # -- one file

    def _distinct_places(self) -> list[Place]:
        """The places without doubles: a tree that is named twice is listed once."""
        seen: dict[tuple[str, Path], Place] = {}
        for place in self._places:
            seen.setdefault((place.folder, place.top.resolve()), place)
        return list(seen.values())

    def _match(self, name: str, folder: Folder) -> ModelEntry | None:
        wanted = name.replace("\\", "/")
        with self._lock:
            files = [file for file in self._files.values() if folder in file.place.may_hold]
        for spellings in _SPELLINGS:
            for fold in (str, str.casefold):
                folded = fold(wanted)
                matches = [file for file in files if any(fold(spell(file)) == folded for spell in spellings)]
                entries = [entry for file in matches if (entry := self._seen(file)).folder == folder]
                if entries:
                    return next((entry for entry in entries if entry.usable), entries[0])
        return None

    def _seen(self, file: _File, *, heed: bool = True) -> ModelEntry:
        """The entry of a file, read if it has not been."""
        if heed:
            self.heed()
        if self._is_due(file):
            self._readings.put(self._read(file))
        if isinstance(file.told, CheckpointInfo) and lacks_encoders(file.told):
            for each in self._in_folder("text_encoders"):
                if self._is_due(each):
                    self._readings.put(self._read(each))
        with self._lock:
            return self._entry(file)

    def _is_due(self, file: _File) -> bool:
        return file.told is None or (file.again_at is not None and self._clock() >= file.again_at)

    def _read(self, file: _File) -> dict[str, tuple[Stamp, object]]:
        """Read a header; returns what is worth remembering on disk."""
        try:
            told: Info | UserError = _read_model(file.found)
        except UserError as error:
            told = error.with_traceback(None)
        changed = file.found.stamp.mtime_ns / 1e9
        is_young = isinstance(told, ModelCorrupt) and 0 <= self._clock() - changed < SETTLED
        with self._lock:
            file.told, file.entry = told, None
            file.again_at = changed + SETTLED if is_young else None
            self._version += 1
        is_lasting = not is_young and not isinstance(told, NotFound)
        return {file.found.path: (file.found.stamp, told)} if is_lasting else {}

    def _answers_of(self, path: str, stamp: Stamp) -> Mapping[str, str]:
        return self._answers.of(path, stamp, self._hashes.of(path, *stamp[:2]))

    def _entry(self, file: _File) -> ModelEntry:
        encoders = self._encoders()
        if file.entry is None:
            file.entry = make_entry(
                file.place, file.found, file.name, file.told,
                settling=file.again_at is not None, answers_of=self._answers_of, encoders=encoders,
            )  # fmt: skip
        return file.entry


#: What a file of a folder is called in a sentence, and the request field that names it.
_WORDS: Mapping[str, tuple[str, str]] = {
    "checkpoints": ("Checkpoint", "checkpoint"),
    "vae": ("VAE", "vae"),
    "text_encoders": ("Text encoder", ""),
    "loras": ("LoRA", "prompt"),
}


def _alias(info: Info | None) -> str:
    return info.alias if isinstance(info, AdapterInfo) else ""


def _is_helper(info: Info | None) -> bool:
    """Whether a checkpoint needs a picture, or another checkpoint's, to begin with."""
    return isinstance(info, CheckpointInfo) and (info.family == "sdxl_refiner" or extra_inputs(info.denoiser) != "none")


#: How a request may write a name, most exact first; those in one row are equally good.
_SPELLINGS: Sequence[Sequence[Callable[[_File], str]]] = (
    (lambda file: file.name, lambda file: file.found.name),
    (lambda file: file.found.below,),
    (lambda file: file.found.name.rpartition("/")[2],),
    (lambda file: file.found.below.rpartition("/")[2],),
)


def _read_model(found: Found) -> Info:
    """What the header of a file, or those of a diffusers folder, tell; raises ``UserError``."""
    path = Path(found.path)
    return detect_folder(path) if found.is_folder else detect(read_header(path))


def _is_fresh(entry: ModelEntry) -> bool:
    """Whether the file on disk is still the one that was read."""
    if entry.path.is_dir():
        return folder_stamp(str(entry.path)) == entry.stamp
    try:
        status = entry.path.stat()
    except OSError:
        return False
    return entry.stamp[:2] == (status.st_size, status.st_mtime_ns)
