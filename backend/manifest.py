"""What an extension says of itself in ``extension.toml``, or in a table of its ``pyproject.toml``; no code is imported.

No torch: the web process lists extensions too, and each process imports only the modules that are named for it.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import importlib.util
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from backend.errors import UserError, unknown_name
from backend.requirements import SITE, read_requirement

API_VERSION = "1.0"  # of backend.api and webui.api; the first number changes when something is taken away
FILE = "extension.toml"
PROJECT_FILE = "pyproject.toml"
TABLE = "[tool.easel.extension]"  # of a pyproject.toml
ENTRY_POINTS = "easel.extensions"
MAX_FILE = 100_000  # bytes
MAX_HASHED = 200 * 2**20  # bytes of an extension's own files
MAX_SITE = 4 * 2**30  # bytes of what was installed for it

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{1,39}$")]
Module = Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]{0,99}$")]
Names = Annotated[tuple[Name, ...], Field(max_length=50)]


class ExtensionRefused(UserError):
    """An extension that cannot be used as it is; the program goes on without it."""

    code = "extension_refused"


class Manifest(BaseModel):
    """An extension's own description.

    Attributes:
        name: unique; the folder's name, and what requests and metadata call it.
        title: for lists; the name, where it is left out.
        api: the versions of Easel's API that it was written for, such as ">=1,<2".
        engine, web: its module for each process, relative to its package; it has one of them at least.
        requires: what ``easel extension install`` resolves for it, as pip writes requirements.
        conflicts: extensions that it cannot run beside.
        before, after: extensions whose hooks run later, or earlier, than its own.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name
    title: Annotated[str, Field(max_length=80)] = ""
    version: Annotated[str, Field(max_length=40)] = "1"
    api: Annotated[str, Field(max_length=80)]
    description: Annotated[str, Field(max_length=1000)] = ""
    engine: Module | None = None
    web: Module | None = None
    requires: Annotated[tuple[Annotated[str, Field(max_length=200)], ...], Field(max_length=100)] = ()
    conflicts: Names = ()
    before: Names = ()
    after: Names = ()

    @field_validator("api")
    @classmethod
    def _range(cls, text: str) -> str:
        try:
            SpecifierSet(text)
        except InvalidSpecifier:
            raise ValueError(f'{text!r} is no range of versions; write ">=1,<2"') from None
        return text

    @field_validator("requires")
    @classmethod
    def _requirements(cls, texts: tuple[str, ...]) -> tuple[str, ...]:
        wrong = next((text for text in texts if read_requirement(text) is None), None)
        if wrong is not None:
            raise ValueError(f'{wrong!r} is no requirement; write "package>=1.2"')
        return texts

    @model_validator(mode="after")
    def _modules(self) -> Manifest:
        if self.engine is None and self.web is None:
            raise ValueError('it names no module of its own; write engine = "hooks" for hooks.py, or web')
        return self if self.title else self.model_copy(update={"title": self.name})

    def fits(self, version: str = API_VERSION) -> bool:
        """Whether it was written for this API."""
        return version in SpecifierSet(self.api)


@dataclass(frozen=True)
class Found:
    """An extension's folder: its manifest, or why that cannot be read.

    Attributes:
        package: dotted name under which it is imported as it is installed; "" for a loose folder.
        is_bundled: ships with Easel, so it needs nobody's approval.
        site: what ``easel extension install`` has installed for it; searched after Easel's own packages.
        is_stranger: a folder among the extensions that has no manifest at all.
    """

    folder: Path
    name: str
    manifest: Manifest | None
    error: ExtensionRefused | None = None
    package: str = ""
    is_bundled: bool = False
    site: Path | None = None
    is_stranger: bool = False

    @property
    def home(self) -> Path:
        """All of it, which is what is approved and removed: a package installed for Easel lies within its ``site``."""
        return self.site.parent if self.site is not None else self.folder


def manifest_file(folder: Path) -> Path | None:
    """The file in a folder that holds a manifest: ``extension.toml``, or a ``pyproject.toml`` with the table."""
    if (folder / FILE).is_file():
        return folder / FILE
    project = folder / PROJECT_FILE
    try:
        return project if project.is_file() and project_table(_toml(project)) is not None else None
    except ExtensionRefused:  # of some other tool, and its fault there
        return None


def read_manifest(folder: Path) -> Manifest:
    """The manifest in a folder.

    Raises:
        ExtensionRefused: it is not there, too long, no TOML, or says something that it may not.
    """
    file = manifest_file(folder) or folder / FILE
    try:
        manifest = Manifest.model_validate(_said(file))
    except ValidationError as error:
        raise ExtensionRefused(f"{file.name} of {folder.name}: {_fault(error)}") from None
    if manifest.name != folder.name:
        raise ExtensionRefused(
            f"The folder {folder.name} holds an extension that calls itself {manifest.name}.",
            "Name the folder after the extension.",
        )
    return manifest


def said_name(folder: Path) -> str:
    """What an extension calls itself, whatever its folder is called; "" where nothing can be read."""
    try:
        return str(_said(manifest_file(folder) or folder / FILE).get("name", ""))
    except ExtensionRefused:
        return ""


def _said(file: Path) -> dict[str, Any]:
    said = _toml(file)
    return _of_project(said) if file.name == PROJECT_FILE else said


def _toml(file: Path) -> dict[str, Any]:
    name = f"{file.name} of {file.parent.name}"
    try:
        raw = file.read_bytes()
        if len(raw) > MAX_FILE:
            raise ExtensionRefused(f"{name} has more than {MAX_FILE:,} bytes.")
        return tomllib.loads(raw.decode("utf-8-sig"))
    except OSError as error:
        raise ExtensionRefused(f"{name} cannot be read ({error.strerror}).") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ExtensionRefused(f"{name} is not valid TOML: {error}.") from None


def project_table(project: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The manifest in a ``pyproject.toml``; None where it has none."""
    tool = project.get("tool")
    easel = tool.get("easel") if isinstance(tool, dict) else None
    table = easel.get("extension") if isinstance(easel, dict) else None
    return table if isinstance(table, dict) else None


def _of_project(said: Mapping[str, Any]) -> dict[str, Any]:
    """The table, completed by what the project says anyway: name, version, description and dependencies."""
    project = said.get("project")
    whole: Mapping[str, Any] = project if isinstance(project, dict) else {}
    known = {"version": whole.get("version"), "description": whole.get("description")}
    known["requires"] = whole.get("dependencies")
    if isinstance(name := whole.get("name"), str):
        known["name"] = re.sub(r"[-.]", "_", name.lower())
    return {key: value for key, value in known.items() if value is not None} | dict(project_table(said) or {})


def _fault(error: ValidationError) -> str:
    """What is wrong with a manifest, as its author would say it."""
    first = error.errors(include_url=False)[0]
    key, kind = ".".join(map(str, first["loc"])), first["type"]
    if kind == "extra_forbidden":
        return unknown_name("the key", key, Manifest.model_fields)
    if kind == "missing":
        return f"{key} is missing."
    words = {
        "string_pattern_mismatch": "small letters, digits and _, from a letter on, 2 to 40 of them"
        if key not in {"engine", "web"}
        else "a module's name, without a path",
        "string_type": 'text, "in quotes"',
        "tuple_type": 'a list, ["of", "texts"]',
    }.get(kind)
    if words:
        return f"{key} is {str(first['input'])[:60]!r}; it must be {words}."
    said = first["msg"].removeprefix("Value error, ")
    return f"{key}: {said}." if key else f"{said}."


def bundled_folder() -> Path:
    """The folder of the extensions that ship with Easel."""
    spec = importlib.util.find_spec("extensions")
    if spec is None or not spec.submodule_search_locations:
        return Path("extensions")
    return Path(spec.submodule_search_locations[0])


def find_extensions(bundled: Path, folders: Iterable[Path]) -> Iterator[Found]:
    """Every extension there is: the bundled ones, loose folders, and installed packages with an entry point.

    A name that was found before is not taken a second time: the later one carries an error that names both places.
    """
    seen: dict[str, Path] = {}
    for found in _everywhere(bundled, folders):
        if found.name in seen:
            if seen[found.name].resolve() == found.folder.resolve():
                continue  # its site-packages is on the path, so that its entry point is found, too
            clash = ExtensionRefused(
                f"{found.name} is there twice: in {seen[found.name]} and in {found.folder}.", "Remove one of them."
            )
            yield Found(found.folder, found.name, found.manifest, clash, found.package)
            continue
        seen[found.name] = found.folder
        yield found


def folder_hash(folder: Path) -> str:
    """A sha256 over names and contents of an extension's files; another byte anywhere is another hash.

    What was installed for it counts, too: it is code that runs. A process reads such a file again when its size or
    time of change is another. Hidden files (``.git``, ``.pytest_cache``) and ``__pycache__`` are not its own.

    Raises:
        ExtensionRefused: the folder is too large to be read at each start, or holds a link to another folder.
    """
    digest = hashlib.sha256()
    size = site_size = 0
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if relative.parts[0] == SITE:
            if path.is_file() and "__pycache__" not in relative.parts:
                facts = path.stat()
                site_size += facts.st_size
                digest.update(f"{relative.as_posix()}\0{_file_hash(path, facts.st_size, facts.st_mtime_ns)}\0".encode())
            if site_size > MAX_SITE:
                raise ExtensionRefused(f"More than {MAX_SITE >> 30} GiB were installed for {folder.name}.")
            continue
        if any(part.startswith(".") or part == "__pycache__" for part in relative.parts):
            continue
        if path.is_symlink() and path.is_dir():
            raise ExtensionRefused(
                f"{relative.as_posix()} in {folder.name} is a link to a folder, which could change unseen.",
                "Put the folder itself there.",
            )
        if not path.is_file():
            continue
        content = path.read_bytes()
        size += len(content)
        if size > MAX_HASHED:
            raise ExtensionRefused(f"{folder.name} holds more than {MAX_HASHED >> 20} MiB.", "Keep models elsewhere.")
        digest.update(f"{relative.as_posix()}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


@functools.lru_cache(maxsize=100_000)
def _file_hash(path: Path, size: int, changed: int) -> str:
    """The sha256 of a file that had this size, and was changed at this time, when it was read."""
    del size, changed
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _everywhere(bundled: Path, folders: Iterable[Path]) -> Iterator[Found]:
    shipped = _bundled_names(bundled)
    for folder in _folders(bundled):
        is_bundled = folder.name in shipped
        yield _found(folder, package=f"extensions.{folder.name}" if is_bundled else "", is_bundled=is_bundled)
    for parent in folders:
        if parent.resolve() != bundled.resolve():  # in a checkout the data folder is the project's
            for folder in _folders(parent):
                yield _found(folder)
            yield from _strangers(parent)
        for folder in sorted(path.parent for path in parent.glob(f"*/{SITE}/*/{FILE}")):
            if folder.name == folder.parent.parent.name:
                yield _found(folder, package=folder.name)
    for point in sorted(importlib.metadata.entry_points(group=ENTRY_POINTS), key=lambda point: point.name):
        spec = importlib.util.find_spec(point.module.partition(".")[0])  # imports nothing for a top-level name
        if spec is not None and spec.submodule_search_locations:
            yield _found(Path(spec.submodule_search_locations[0]), package=point.module)


def _bundled_names(bundled: Path) -> frozenset[str]:
    try:
        listed: Mapping[str, Any] = tomllib.loads((bundled / "bundled.toml").read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError):
        return frozenset()
    return frozenset(listed.get("extensions", ()))


def _folders(parent: Path) -> Iterator[Path]:
    if parent.is_dir():
        yield from sorted(path for path in parent.iterdir() if path.is_dir() and manifest_file(path) is not None)


def _strangers(parent: Path) -> Iterator[Found]:
    """Folders among the extensions that are none, each with the reason: nothing that lies there goes unsaid."""
    for folder in sorted(parent.iterdir()) if parent.is_dir() else ():
        if not folder.is_dir() or folder.name.startswith((".", "_")) or manifest_file(folder) is not None:
            continue
        if (folder / SITE).is_dir():
            continue  # an installed package, which lies there
        inner = next(_folders(folder), None)
        todo = f"It is the folder {inner.name} in it that belongs here." if inner else "easel extension new writes one."
        refused = ExtensionRefused(f"{folder.name} has no {FILE}, and no {PROJECT_FILE} with {TABLE}.", todo)
        yield Found(folder, folder.name, None, refused, is_stranger=True)


def _found(folder: Path, *, package: str = "", is_bundled: bool = False) -> Found:
    site = folder.parent if folder.parent.name == SITE and folder.parent.parent.name == folder.name else folder / SITE
    kept = site if site.is_dir() else None
    try:
        return Found(folder, folder.name, read_manifest(folder), None, package, is_bundled, kept)
    except ExtensionRefused as error:
        return Found(folder, folder.name, None, error, package, is_bundled, kept)
