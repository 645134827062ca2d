"""Install and remove an extension: built beside, checked, then swapped in whole; what was there stays until then."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from packaging.utils import canonicalize_name

from backend.errors import NotFound, unknown_name
from backend.installing.pip import InstallRefused, Planned, clash, install, resolve
from backend.installing.sources import Package, open_source, packaged_folder
from backend.manifest import (
    API_VERSION,
    Found,
    Manifest,
    bundled_folder,
    find_extensions,
    folder_hash,
    read_manifest,
)
from backend.records.folders import put_in_place, take_away, workshop
from backend.requirements import SITE, Pin, environment_pins, missing, needed, read_requirement, site_pins
from backend.settings import Settings

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Installed:
    """What was put into the data folder.

    Attributes:
        packages: that were installed for it, in its own folder.
        replaced: version of the one that was there before; "" if none was.
    """

    name: str
    version: str
    folder: Path
    packages: tuple[str, ...]
    replaced: str


def install_extension(settings: Settings, what: str, tell: Tell) -> Installed:
    """Put an extension, and what it needs beside Easel's own packages, into the data folder's ``extensions``.

    Args:
        what: path of a folder, zip, wheel or sdist, or a package's name as pip takes it.
        tell: told what is being done, a sentence at a time.
    Raises:
        InstallRefused, ExtensionRefused: it is no extension, its name is taken, or what it needs does not go with
            Easel's packages or another extension's. Nothing was changed.
    """
    extensions = settings.extension_folders[0]
    with workshop(extensions) as room:
        source = open_source(what, room)
        if isinstance(source, Package):
            home, manifest = _build_package(settings, source, room, tell)
        else:
            home, manifest = source, read_manifest(source)
            _check(settings, manifest)
            _add_requirements(settings, manifest, manifest.requires, home / SITE, room, tell)
        folder_hash(home)  # whether it can be approved at all
        target = extensions / manifest.name
        before = _found(settings, manifest.name)
        put_in_place(home, target, room)
    site = target / SITE
    packages = (
        tuple(f"{pin.name} {pin.version}" for pin in site_pins(site, manifest.name).values()) if site.is_dir() else ()
    )
    replaced = before.manifest.version if before and before.manifest else ""
    return Installed(manifest.name, manifest.version, target, packages, replaced)


def remove_extension(settings: Settings, name: str) -> Path:
    """Take an extension and what was installed for it out of the data folder.

    Raises:
        NotFound: none is called so.
        InstallRefused: it ships with Easel, or lies where Easel has not put it.
    """
    found = _found(settings, name)
    if found is None:
        raise NotFound(unknown_name("Extension", name, {each.name for each in _everything(settings)}))
    extensions = settings.extension_folders[0]
    if found.is_bundled:
        raise InstallRefused(f"{name} ships with Easel.", f"Switch it off: easel extension disable {name}")
    if found.home.parent.resolve() != extensions.resolve() or found.home.is_symlink():
        raise InstallRefused(f"{name} lies in {found.home}, where Easel has not put it.", "Remove it there.")
    with workshop(extensions) as room:
        take_away(found.home, room)
    return found.home


def _build_package(settings: Settings, package: Package, room: Path, tell: Tell) -> tuple[Path, Manifest]:
    """The folder of an extension that is a Python package: all of it lies in ``site-packages``, found by its name."""
    environment = environment_pins()
    named = read_requirement(package.requirement)
    if named is not None and (there := environment.get(canonicalize_name(named.name))):
        raise _in_environment(f"{there.name} {there.version}")
    tell(f"Looking for {Path(package.requirement).name} and what it needs.")
    site = room / "package" / SITE
    planned = resolve([package.requirement], environment, Path(package.requirement).name, room)
    asked = next((each for each in planned if each.is_asked), None)
    if asked is None:
        raise _in_environment(package.requirement)
    install([asked], site)
    folder = packaged_folder(site, asked.name)
    manifest = read_manifest(folder)
    _check(settings, manifest)
    direct = asked.url or f"{asked.name}=={asked.version}"
    wanted = f"{asked.name} @ {direct}" if asked.url else direct
    _add_requirements(settings, manifest, [wanted, *manifest.requires], site, room, tell, there=asked)
    home = room / "new" / manifest.name
    site.parent.rename(home)
    return home, manifest


def _in_environment(what: str) -> InstallRefused:
    return InstallRefused(
        f"{what} is in Easel's environment already.",
        "If it is an extension, easel extension list names it; approve it there.",
    )


def _check(settings: Settings, manifest: Manifest) -> None:
    """Refuse what could not run, and a name that something else has."""
    if not manifest.fits():
        raise InstallRefused(
            f"{manifest.name} was written for API {manifest.api}; this Easel has {API_VERSION}.",
            "Look for another version.",
        )
    extensions = settings.extension_folders[0]
    taken = _found(settings, manifest.name)
    if taken is None:
        if (extensions / manifest.name).exists():
            raise InstallRefused(
                f"{extensions / manifest.name} is there already and is no extension.", "Remove it, or move it away."
            )
        return
    if taken.is_bundled:
        raise InstallRefused(f"An extension called {manifest.name} ships with Easel.", "Give it another name.")
    if taken.home.parent.resolve() != extensions.resolve() or taken.home.is_symlink():
        raise InstallRefused(
            f"{manifest.name} is there already, in {taken.home}, where Easel has not put it.", "Remove it there first."
        )


def _add_requirements(
    settings: Settings,
    manifest: Manifest,
    wanted: Iterable[str],
    site: Path,
    room: Path,
    tell: Tell,
    there: Planned | None = None,
) -> None:
    """Install what an extension needs and Easel's environment has not; ``there`` lies in ``site`` already."""
    requirements = [str(each) for each in needed(wanted)]
    if not requirements:
        return
    pins = _other_pins(settings, manifest.name) | environment_pins()
    for requirement in needed(requirements):
        pin = pins.get(canonicalize_name(requirement.name))
        if pin is not None and not pin.takes(requirement):
            raise InstallRefused(*clash(manifest.name, str(requirement), pin))
    if not missing(requirements, None) and not any(each.extras for each in needed(requirements)):
        return
    planned = resolve(requirements, pins, manifest.name, room)
    new = [each for each in planned if there is None or each.name != there.name]
    _hold(new, pins, manifest.name)
    if new:
        tell(f"Installing {', '.join(map(str, new))} for {manifest.name}.")
        install(new, site)
    if lacking := missing(manifest.requires, site if site.is_dir() else None):
        raise InstallRefused(f"{manifest.name} would still lack {', '.join(lacking)}.", "Ask its author.")


def _hold(planned: Iterable[Planned], pins: Mapping[str, Pin], who: str) -> None:
    """A package that is named by its place goes past the constraints; refuse it here."""
    for each in planned:
        pin = pins.get(each.name)
        if pin is not None and (not pin.owner or pin.version != each.version):
            raise InstallRefused(*clash(who, str(each), pin))


def _other_pins(settings: Settings, name: str) -> dict[str, Pin]:
    """What was installed for the other extensions; the first that has a package holds its version."""
    pins: dict[str, Pin] = {}
    for found in _everything(settings):
        if found.site is not None and found.name != name:
            pins = site_pins(found.site, found.name) | pins
    return pins


def _found(settings: Settings, name: str) -> Found | None:
    return next((each for each in _everything(settings) if each.name == name), None)


def _everything(settings: Settings) -> Iterable[Found]:
    return (each for each in find_extensions(bundled_folder(), settings.extension_folders) if not each.is_stranger)
