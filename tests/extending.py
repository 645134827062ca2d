"""Loose extensions for tests: a folder with a manifest and a module, written where the test says."""

from __future__ import annotations

import sys
from pathlib import Path

from backend.approvals import Approvals
from backend.importing import LOOSE_PACKAGE
from backend.manifest import find_extensions

MANIFEST = 'name = "{name}"\ntitle = "{name}"\nversion = "1.0"\napi = "{api}"\n{side} = "hooks"\n{more}\n'


def write_extension(
    folder: Path, name: str, code: str, *, api: str = ">=1,<2", side: str = "engine", more: str = ""
) -> Path:
    """``folder/name`` with ``code`` as its module of one process."""
    home = folder / name
    home.mkdir(parents=True)
    (home / "extension.toml").write_text(MANIFEST.format(name=name, api=api, side=side, more=more))
    (home / "hooks.py").write_text(code)
    return home


def approve_all(folder: Path, approvals: Approvals) -> None:
    """Switch everything in a folder on, as it is now."""
    for found in find_extensions(folder / "no bundled ones", [folder]):
        approvals.set(found, on=True)


def forget_loose_extensions() -> None:
    """Take the modules of loose extensions out of this process, so that the next test imports its own."""
    for name in [name for name in sys.modules if name.split(".")[0] == LOOSE_PACKAGE]:
        del sys.modules[name]
