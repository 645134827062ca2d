"""Python packages beside Easel's: which versions are there, and whose they are. Reads metadata, imports nothing.

An extension's requirements lie in a folder of its own, which is searched after Easel's environment, so that what Easel
runs on is never replaced. One process holds one version of a package; so what is there already is a ``Pin``.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

SITE = "site-packages"  # in an extension's folder: what was installed for it


@dataclass(frozen=True)
class Pin:
    """A package that is there already.

    Attributes:
        owner: the extension that it was installed for; "" is Easel's own environment.
    """

    name: str
    version: Version
    owner: str = ""

    def __str__(self) -> str:
        whose = f"the extension {self.owner} has" if self.owner else "Easel itself has"
        return f"{whose} {self.name} {self.version}"

    def takes(self, requirement: Requirement) -> bool:
        """Whether what is there is what the requirement asks for."""
        return requirement.url is None and requirement.specifier.contains(self.version, prereleases=True)


def environment_pins() -> dict[str, Pin]:
    """Every package of the environment that Easel runs in, by its normalised name."""
    return dict(_pins(importlib.metadata.distributions(), ""))


def site_pins(site: Path, owner: str) -> dict[str, Pin]:
    """Every package that was installed for one extension."""
    return dict(_pins(importlib.metadata.distributions(path=[str(site)]), owner))


def read_requirement(text: str) -> Requirement | None:
    """A requirement as pip writes it; None: it is no such thing."""
    try:
        return Requirement(text)
    except InvalidRequirement:
        return None


def needed(requirements: Iterable[str]) -> Iterator[Requirement]:
    """Those that can be read and whose markers are for this machine and Python."""
    for text in requirements:
        requirement = read_requirement(text)
        if requirement is not None and (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
            yield requirement


def missing(requirements: Iterable[str], site: Path | None) -> list[str]:
    """What an extension needs and has not: its own requirements, and those of what was installed for it.

    Returns:
        Words for a list, "libfoo>=2" or "libfoo>=2 (there is 1.0)". Empty: everything is there.
    """
    own = site_pins(site, "its own") if site else {}
    asked: list[str] = list(requirements)
    if site:
        for package in importlib.metadata.distributions(path=[str(site)]):
            asked += package.requires or ()
    lacking: dict[str, None] = {}
    for requirement in needed(asked):
        pin = _environment_pin(requirement.name) or own.get(canonicalize_name(requirement.name))
        if pin is None:
            lacking[str(requirement)] = None
        elif requirement.url is None and not pin.takes(requirement):
            lacking[f"{requirement} (there is {pin.version})"] = None
    return list(lacking)


def constraints(pins: Mapping[str, Pin]) -> str:
    """The pins as a constraints file of pip's."""
    return "".join(f"{name}=={pin.version}\n" for name, pin in sorted(pins.items()))


def _environment_pin(name: str) -> Pin | None:
    try:
        return Pin(name, Version(importlib.metadata.version(name)))
    except (importlib.metadata.PackageNotFoundError, InvalidVersion):
        return None


def _pins(packages: Iterable[importlib.metadata.Distribution], owner: str) -> Iterator[tuple[str, Pin]]:
    seen: set[str] = set()
    for package in packages:
        try:
            name, version = canonicalize_name(package.name), Version(package.version)
        except (InvalidVersion, TypeError, KeyError):  # a folder that a broken installation left
            continue
        if name not in seen:  # the first on the path is the one that is imported
            seen.add(name)
            yield name, Pin(name, version, owner)
