"""One extension's module imported: its own site-packages searched after Easel's, and what it lacks said by name."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from backend.manifest import ExtensionRefused, Found
from backend.requirements import missing

LOOSE_PACKAGE = "easel_extensions"  # loose folders are imported below this name


def import_extension(found: Found, wanted: str) -> ModuleType:
    """The module ``wanted`` of an extension; what was installed for it is on the path from then on.

    Raises:
        ExtensionRefused: it needs something that is not installed, or another package of its name comes first.
        BaseException: whatever the module raises.
    """
    with _searched(found.site):
        manifest = found.manifest
        lacking = missing(manifest.requires if manifest else (), found.site)
        if lacking:
            raise ExtensionRefused(f"It needs {', '.join(lacking)}.", f"Run: easel extension install {found.home}")
        try:
            module = _packaged(found, wanted) if found.package else _loose(found, wanted)
        except ModuleNotFoundError as error:
            top = (error.name or "").partition(".")[0]
            if top in {"", LOOSE_PACKAGE} or importlib.util.find_spec(top) is not None:
                raise  # a module that a package which is there does not have
            raise ExtensionRefused(
                f"It needs the Python module {top}, which is not installed, and its manifest does not say so.",
                f"Add its package to requires in extension.toml and run: easel extension install {found.home}",
            ) from error
    return module


@contextlib.contextmanager
def _searched(site: Path | None) -> Iterator[None]:
    """Append a folder to the path, for good unless the block raises."""
    entry = str(site) if site is not None else ""
    if not entry or entry in sys.path:
        yield
        return
    sys.path.append(entry)
    importlib.invalidate_caches()
    try:
        yield
    except BaseException:
        sys.path.remove(entry)
        raise


def _packaged(found: Found, wanted: str) -> ModuleType:
    spec = importlib.util.find_spec(found.package)
    places = list(spec.submodule_search_locations or ()) if spec else []
    if not places or Path(places[0]).resolve() != found.folder.resolve():
        other = places[0] if places else spec.origin if spec else "nowhere"
        raise ExtensionRefused(f"Python finds another package called {found.package} first, in {other}.")
    return importlib.import_module(f"{found.package}.{wanted}")


def _loose(found: Found, wanted: str) -> ModuleType:
    package = f"{LOOSE_PACKAGE}.{found.name}"
    for name, folder in ((LOOSE_PACKAGE, None), (package, found.folder)):
        if name not in sys.modules:
            spec = importlib.util.spec_from_loader(name, loader=None, is_package=True)
            assert spec is not None  # noqa: S101 - a namespace always has a spec
            module = importlib.util.module_from_spec(spec)
            module.__path__ = [] if folder is None else [str(folder)]
            sys.modules[name] = module
    return importlib.import_module(f"{package}.{wanted}")
