"""One extension's module imported: its own site-packages searched after Easel's, and what it lacks said by name.

Its hooks are held against the specs here, so that a slip of the pen is told with the name that was meant.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from backend.errors import near_name
from backend.manifest import ExtensionRefused, Found
from backend.requirements import missing

LOOSE_PACKAGE = "easel_extensions"  # loose folders are imported below this name
_ANY = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


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
            _refuse_own(found, wanted, error.name or "")
            if top in {"", LOOSE_PACKAGE} or importlib.util.find_spec(top) is not None:
                raise  # a module that a package which is there does not have
            raise ExtensionRefused(
                f"It needs the Python module {top}, which is not installed, and its manifest does not say so.",
                f"Add its package to requires in extension.toml and run: easel extension install {found.home}",
            ) from error
    return module


def check_hooks(module: ModuleType, specs: ModuleType, side: str) -> set[str]:
    """Names of the functions that a module has marked as hooks.

    Raises:
        ExtensionRefused: one is no hook of this process, or takes an argument that its hook is not given; or a function
            of a hook's name is not marked.
    """
    known = {name: spec for name, spec in vars(specs).items() if hasattr(spec, "easel_spec")}
    marked = {name: value for name, value in vars(module).items() if hasattr(value, "easel_impl")}
    for name in sorted(known.keys() & vars(module).keys() - marked.keys()):
        if inspect.isfunction(vars(module)[name]):
            raise ExtensionRefused(f"{name} has a hook's name and is not marked as one.", "Write @hookimpl above it.")
    for name, function in sorted(marked.items()):
        if name not in known:
            near = near_name(name, known)
            raise ExtensionRefused(
                f"{name} is no hook of the {side} process.{near} Known hooks: {', '.join(sorted(known))}."
            )
        given = inspect.signature(known[name]).parameters
        for argument in inspect.signature(function).parameters.values():
            if argument.name not in given and argument.default is argument.empty and argument.kind not in _ANY:
                may = f"It may take {', '.join(given)}." if given else "It takes none."
                raise ExtensionRefused(f"{name} does not fit: it is not given {argument.name!r}.", may)
    return set(marked)


def _refuse_own(found: Found, wanted: str, lacking: str) -> None:
    """A module of the extension's own that was not found: because it is not there, or was named as if it were not its.

    Raises:
        ExtensionRefused: saying which of them, and how it is written.
    """
    package = found.package or f"{LOOSE_PACKAGE}.{found.name}"
    if f"{package}.{wanted}".startswith(lacking) and lacking.startswith(f"{package}."):
        there = ", ".join(sorted(path.stem for path in found.folder.glob("*.py"))) or "none"
        raise ExtensionRefused(
            f"Its manifest names the module {wanted!r}, which is not in its folder.",
            f"Name it without .py; there: {there}.",
        )
    top = lacking.partition(".")[0]
    if top and ((found.folder / f"{top}.py").is_file() or (found.folder / top / "__init__.py").is_file()):
        raise ExtensionRefused(
            f"It imports {lacking} as if that were installed; it is a module of its own.",
            f"Write: from . import {top}, or: from .{lacking} import ...",
        )


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
