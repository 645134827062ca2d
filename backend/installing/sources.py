"""What can be installed: a folder or a zip with a manifest at its top, or a package that brings one."""

from __future__ import annotations

import importlib.metadata
import shutil
import tomllib
import zipfile
from dataclasses import dataclass
from pathlib import Path

from backend.installing.pip import InstallRefused
from backend.manifest import (
    ENTRY_POINTS,
    FILE,
    MAX_FILE,
    MAX_HASHED,
    PROJECT_FILE,
    manifest_file,
    project_table,
    read_manifest,
    said_name,
)
from backend.requirements import SITE, read_requirement

ARCHIVES = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".zip")
NOT_COPIED = (SITE, "__pycache__", ".git", ".venv", ".pytest_cache", ".ruff_cache")


@dataclass(frozen=True)
class Package:
    """Something for pip: a requirement, or the absolute path of a wheel, an sdist or a project's folder."""

    requirement: str


def open_source(what: str, room: Path) -> Path | Package:
    """A folder with a manifest, made in ``room`` under the extension's name, or a package for pip.

    Raises:
        InstallRefused: there is no such file or folder, or it is no extension.
        ExtensionRefused: its manifest cannot be used.
    """
    path = Path(what).expanduser()
    if path.is_dir():
        return _from_folder(path.resolve(), room)
    if path.is_file():
        return _from_file(path.resolve(), room)
    if read_requirement(what) is None or path.suffix in {".whl", *ARCHIVES}:
        raise InstallRefused(
            f"{what[:100]!r} is no file, no folder and no name of a package.", "Accepted: PATH, or NAME[==VERSION]."
        )
    return Package(what)


def packaged_folder(site: Path, distribution: str) -> Path:
    """The folder with ``extension.toml`` that a package in ``site`` names by its entry point.

    Raises:
        InstallRefused: it has no entry point, or none that leads to a manifest.
    """
    for package in importlib.metadata.distributions(path=[str(site)], name=distribution):
        for point in package.entry_points.select(group=ENTRY_POINTS):
            folder = site / point.module.partition(".")[0]
            if (folder / FILE).is_file():
                return folder
    raise InstallRefused(
        f"The package {distribution} is no extension of Easel.",
        f"An extension has an entry point in the group {ENTRY_POINTS} that names a package with {FILE} in it.",
    )


def _from_folder(folder: Path, room: Path) -> Path | Package:
    if manifest_file(folder) is not None:
        name = read_manifest(folder).name
        home = room / "new" / name
        shutil.copytree(folder, home, ignore=shutil.ignore_patterns(*NOT_COPIED))
        return home
    if (folder / PROJECT_FILE).is_file() or (folder / "setup.py").is_file():
        return Package(str(folder))
    raise InstallRefused(f"{folder} is no extension: it has no {FILE}.", "easel extension new makes one to start from.")


def _from_file(path: Path, room: Path) -> Path | Package:
    if path.suffix == ".whl" or (path.name.endswith(ARCHIVES) and not _has_manifest(path)):
        return Package(str(path))
    if path.suffix != ".zip":
        raise InstallRefused(
            f"{path.name} is no extension.", "Accepted: a folder or a zip with extension.toml, a wheel, an sdist."
        )
    unpacked = room / "unpacked" / path.stem
    _unpack(path, unpacked)
    folders = [unpacked, *(each for each in unpacked.iterdir() if each.is_dir())]
    folder = next(each for each in folders if manifest_file(each) is not None)
    if folder == unpacked:  # a zip of the files alone is called what it likes
        return _from_folder(_named_as_it_says(unpacked), room)
    return _from_folder(folder, room)


def _named_as_it_says(unpacked: Path) -> Path:
    name = said_name(unpacked)
    if not name.isidentifier() or name == unpacked.name:
        return unpacked
    return unpacked.rename(unpacked.with_name(name))


def _has_manifest(path: Path) -> bool:
    """Whether a zip has a manifest at its top or one folder below."""
    if path.suffix != ".zip":
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            tops = [entry for entry in archive.infolist() if entry.filename.count("/") <= 1]
            files = {entry.filename.rpartition("/")[2]: entry for entry in tops}
            if FILE in files:
                return True
            project = files.get(PROJECT_FILE)
            if project is None or project.file_size > MAX_FILE:
                return False
            return project_table(tomllib.loads(archive.read(project).decode("utf-8-sig"))) is not None
    except (zipfile.BadZipFile, OSError, tomllib.TOMLDecodeError, UnicodeDecodeError):
        return False


def _unpack(path: Path, target: Path) -> None:
    """Every file of a zip, inside ``target`` whatever names it uses, and no more than an extension may hold."""
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > MAX_HASHED:
                raise InstallRefused(f"{path.name} unpacks to more than {MAX_HASHED >> 20} MiB.")
            archive.extractall(target)  # drops drives, leading slashes and ".."
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
        raise InstallRefused(f"{path.name} cannot be unpacked: {error}.") from None
