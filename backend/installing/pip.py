"""pip, asked in a process of its own: what would be installed, and then exactly that into a folder."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.utils import canonicalize_name
from packaging.version import Version

from backend.errors import UserError
from backend.requirements import Pin, constraints, read_requirement

QUIET = ("--no-input", "--no-color", "--disable-pip-version-check")
#: Of a user's own configuration, what would send packages elsewhere; indexes, mirrors and proxies stay as they are.
_DIVERTING = ("PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_USER", "PIP_CONSTRAINT", "PIP_REQUIREMENT", "PIP_UPGRADE")
_DEPENDS = re.compile(r"^\s+(?P<who>\S+ \S+) depends on (?P<what>.+)$", re.MULTILINE)
_REQUESTED = re.compile(r"^\s+The user requested (?!\(constraint\))(?P<what>.+)$", re.MULTILINE)


class InstallRefused(UserError):
    """An extension that cannot be installed as things are; nothing was changed."""

    code = "install_refused"


@dataclass(frozen=True)
class Planned:
    """A package that pip would install.

    Attributes:
        url: where it lies, if it was named by its place rather than by name and version.
        is_asked: it was asked for itself, not for another's sake.
    """

    name: str
    version: Version
    url: str | None
    is_asked: bool

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


def resolve(requirements: Sequence[str], pins: Mapping[str, Pin], who: str, room: Path) -> tuple[Planned, ...]:
    """What these requirements need beside what is in Easel's environment; nothing is installed.

    Args:
        pins: what is there already and may not change.
        who: asks for it, for errors.
        room: a folder for the files that pip reads and writes.
    Raises:
        InstallRefused: no versions go together with the pins (both versions are named), or a package is not found.
    """
    bounds, report = room / "constraints.txt", room / "report.json"
    bounds.write_text(constraints(pins), encoding="utf-8")
    done = _pip(["install", "--dry-run", "--report", str(report), "--constraint", str(bounds), *QUIET], requirements)
    if done.returncode:
        raise InstallRefused(*_reason(f"{done.stdout}\n{done.stderr}", pins, who))
    return tuple(map(_planned, json.loads(report.read_text(encoding="utf-8"))["install"]))


def install(planned: Iterable[Planned], site: Path) -> None:
    """Put exactly these packages into a folder, without asking for what they need.

    Raises:
        InstallRefused: pip failed; with its words.
    """
    exact = [f"{each.name} @ {each.url}" if each.url else f"{each.name}=={each.version}" for each in planned]
    if not exact:
        return
    done = _pip(["install", "--no-deps", "--no-compile", "--target", str(site), "--upgrade", *QUIET], exact)
    if done.returncode:
        raise InstallRefused(f"pip could not install {', '.join(exact)[:200]}. {_last_words(done.stderr)}")


def _planned(row: Mapping[str, Mapping[str, str]]) -> Planned:
    url = row["download_info"]["url"] if row["is_direct"] else None
    return Planned(
        canonicalize_name(row["metadata"]["name"]), Version(row["metadata"]["version"]), url, bool(row["requested"])
    )


def _pip(arguments: Sequence[str], requirements: Iterable[str]) -> subprocess.CompletedProcess[str]:
    if importlib.util.find_spec("pip") is None:
        raise InstallRefused(
            "Easel's environment has no pip, which resolves what an extension needs.",
            f"Run: {sys.executable} -m ensurepip",
        )
    environment = {name: value for name, value in os.environ.items() if name not in _DIVERTING}
    return subprocess.run(  # noqa: S603 - our own interpreter; requirements stand behind "--"
        [sys.executable, "-m", "pip", *arguments, "--", *requirements],
        env=environment | {"PIP_REQUIRE_VIRTUALENV": "0"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )


def _reason(words: str, pins: Mapping[str, Pin], who: str) -> tuple[str, str]:
    """What pip's words mean for the user: a clash with a pin names both versions; else what pip said last."""
    asked = [(match["who"], match["what"]) for match in _DEPENDS.finditer(words)]
    asked += [(who, match["what"]) for match in _REQUESTED.finditer(words)]
    for asker, text in asked:
        requirement = read_requirement(text.strip())
        pin = pins.get(canonicalize_name(requirement.name)) if requirement else None
        if requirement and pin and not pin.takes(requirement):
            by = who if asker == who else f"{who} needs {asker}, which"
            return clash(by, text.strip(), pin)
    if asked:
        listed = "; ".join(f"{asker} needs {text.strip()}" for asker, text in asked[:6])
        return f"{who} cannot be installed: no versions go together: {listed}.", "Ask its author."
    return f"{who} cannot be installed. {_last_words(words)}", "Look at its requirements, or at the connection."


def clash(who: str, requirement: str, pin: Pin) -> tuple[str, str]:
    """Two sentences on a requirement that does not go with what is there."""
    what = f"{who} needs {requirement}, but {pin}, and one process holds one version."
    if pin.owner:
        return what, f"Remove one of the two; if {pin.owner} takes another version, install it again afterwards."
    return what, "What Easel runs on is not changed for an extension. Look for a version that was made for it."


def _last_words(words: str) -> str:
    errors = [line.removeprefix("ERROR: ") for line in words.splitlines() if line.startswith("ERROR: ")]
    last = errors or [line for line in words.splitlines() if line.strip()][-1:]
    return "pip: " + " ".join(last)[:500] if last else "pip said nothing."
