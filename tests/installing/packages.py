"""Tiny wheels and sdists, written by hand, so that pip installs from a folder and never asks a network."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

BACKEND = """
import zipfile


def build_wheel(folder, config_settings=None, metadata_directory=None):
    with zipfile.ZipFile(f"{folder}/WHEEL_NAME", "w") as wheel:
        for name, content in FILES.items():
            wheel.writestr(name, content)
    return "WHEEL_NAME"
"""


def wheel_files(
    name: str, version: str, requires: Sequence[str], files: Mapping[str, str], entry: str
) -> dict[str, str]:
    """What a wheel holds."""
    info = f"{name}-{version}.dist-info"
    needs = "".join(f"Requires-Dist: {each}\n" for each in requires)
    held = dict(files) or {f"{name}/__init__.py": f'version = "{version}"\n'}
    held[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}"
    held[f"{info}/WHEEL"] = "Wheel-Version: 1.0\nGenerator: by hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    if entry:
        held[f"{info}/entry_points.txt"] = f"[easel.extensions]\n{entry} = {entry}\n"
    return held | {f"{info}/RECORD": ""}


def write_wheel(
    folder: Path,
    name: str,
    version: str,
    *,
    requires: Sequence[str] = (),
    files: Mapping[str, str] | None = None,
    entry: str = "",
) -> Path:
    """A pure wheel; without ``files`` a package of its name that knows its version."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for place, content in wheel_files(name, version, requires, files or {}, entry).items():
            wheel.writestr(place, content)
    return path


def write_sdist(folder: Path, name: str, version: str, *, files: Mapping[str, str], entry: str) -> Path:
    """An sdist that builds itself: its backend lies in it and needs nothing."""
    wheel = f"{name}-{version}-py3-none-any.whl"
    held = wheel_files(name, version, (), files, entry)
    backend = f"FILES = {held!r}\n" + BACKEND.replace("WHEEL_NAME", wheel)
    project = '[build-system]\nrequires = []\nbuild-backend = "made"\nbackend-path = ["."]\n'
    facts = f'\n[project]\nname = "{name}"\nversion = "{version}"\n'
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{version}.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for place, content in {"made.py": backend, "pyproject.toml": project + facts}.items():
            entry_ = tarfile.TarInfo(f"{name}-{version}/{place}")
            entry_.size = len(content.encode())
            archive.addfile(entry_, io.BytesIO(content.encode()))
    return path
