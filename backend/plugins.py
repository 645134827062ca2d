"""Extensions of one process: found, imported one by one, asked one by one; what one does wrong stays its own.

pluggy checks names and arguments of the hooks; calling, order, time and failures are ours, since pluggy's own call runs
all implementations at once and stops at the first that raises. This file knows no hook by name and imports no torch.
"""

from __future__ import annotations

import graphlib
import json
import logging
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import pluggy

from backend.approvals import Approvals, Status
from backend.errors import UserError
from backend.importing import check_hooks, import_extension
from backend.manifest import ExtensionRefused, Found, find_extensions
from backend.records.files import write_atomically

log = logging.getLogger(__name__)

Side = Literal["engine", "web"]
STRIKES = 3
SLOW_IMPORT = 5.0  # seconds, above which the list says so


class ExtensionFailed(UserError):
    """A hook that can change the picture failed; the job fails with it and the extension is named."""

    code = "extension_failed"


@dataclass
class Extension:
    """One extension as this process has it.

    Attributes:
        status: see ``Status``.
        hooks: names of the hooks it implements here.
        seconds: spent in its hooks since the start, by hook; ``calls`` counts them.
        failures: of its observers; at ``STRIKES`` they are no longer called.
    """

    found: Found
    status: Status
    reason: str = ""
    detail: str = ""  # a traceback, for the log and the person's own screen
    module: ModuleType | None = None
    hooks: tuple[str, ...] = ()
    import_seconds: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)
    failures: int = 0

    @property
    def name(self) -> str:
        """Its unique name."""
        return self.found.name

    def to_json(self) -> dict[str, Any]:
        """For the registry document and the Extensions tab."""
        manifest = self.found.manifest
        return {
            "name": self.name,
            "title": manifest.title if manifest else self.name,
            "version": manifest.version if manifest else "",
            "description": manifest.description if manifest else "",
            "bundled": self.found.is_bundled,
            "status": self.status,
            "reason": self.reason,
            "detail": self.detail,
            "hooks": list(self.hooks),
            "import_seconds": round(self.import_seconds, 3),
            "hook_seconds": {hook: round(spent, 4) for hook, spent in dict(self.seconds).items()},
            "hook_calls": dict(self.calls),
            "failures": self.failures,
        }


class Plugins:
    """The extensions of one process and the calls of their hooks.

    Args:
        specs: the module of hookspecs.
        guard: put around every call of a hook; it restores what the call may not change, and raises ``ExtensionFailed``
            if something had to be restored.
        on_call: told of the owner and the hook that is called, and whether it observes; ("", "", False) at its end.
    """

    def __init__(
        self,
        specs: ModuleType,
        side: Side,
        guard: Callable[[str, str], AbstractContextManager[None]] | None = None,
        on_call: Callable[[str, str, bool], None] | None = None,
    ) -> None:
        self._specs = specs
        self._side: Side = side
        self._guard = guard or (lambda _owner, _hook: nullcontext())
        self._manager = pluggy.PluginManager("easel")
        self._manager.add_hookspecs(specs)
        self.extensions: dict[str, Extension] = {}
        self._order: list[str] = []
        self._on_call = on_call or (lambda _owner, _hook, _observes: None)
        self._calling: tuple[str, str, bool] = ("", "", False)

    # -- loading

    def load(self, bundled: Path, folders: Sequence[Path], approvals: Approvals, diary: Path) -> None:
        """Find, check and import every extension, one by one.

        Args:
            diary: a file that names what is being imported, so that the next start after a crash or hang leaves it out.
        """
        if crashed := _read_diary(diary):
            approvals.note_crash(crashed)
        for found in find_extensions(bundled, folders):
            status, reason = approvals.status_of(found)
            key = found.name if found.name not in self.extensions else f"{found.name} ({found.folder})"
            self.extensions[key] = Extension(found, status, reason)
        self._refuse_conflicts()
        self._order = self._sorted()
        for name in self._order:
            self._import(self.extensions[name], diary)
        diary.unlink(missing_ok=True)

    def switch_off(self, name: str, reason: str, detail: str = "") -> None:
        """Take an extension out: its hooks are no longer called in this process."""
        extension = self.extensions[name]
        extension.status, extension.reason, extension.detail = "failed", reason, detail
        if extension.module is not None and self._manager.is_registered(extension.module):
            self._manager.unregister(extension.module)
        log.warning("extension %s is off: %s", name, reason)

    def _import(self, extension: Extension, diary: Path) -> None:
        manifest = extension.found.manifest
        wanted = getattr(manifest, self._side) if manifest else None
        if extension.status != "on" or wanted is None:
            return
        write_atomically(diary, json.dumps({"importing": extension.name}).encode())
        started = time.perf_counter()
        try:
            with self._guard(extension.name, "import"):
                extension.module = import_extension(extension.found, wanted)
            self._register(extension)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # sys.exit in a module is an extension's fault like any other
            words = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            self.switch_off(extension.name, f"It cannot be imported. {words}"[:500], traceback.format_exc()[-5000:])
        extension.import_seconds = time.perf_counter() - started
        if extension.import_seconds > SLOW_IMPORT and extension.status == "on":
            extension.reason = f"Importing it took {extension.import_seconds:.0f} s."

    def _register(self, extension: Extension) -> None:
        """Give the module to pluggy, once its hooks are ones that there are."""
        module = extension.module
        assert module is not None  # noqa: S101 - just imported
        marked = check_hooks(module, self._specs, self._side)
        try:
            self._manager.register(module, extension.name)
        except pluggy.PluginValidationError as error:
            raise ExtensionRefused(f"A hook does not fit: {str(error).splitlines()[-1]}") from None
        extension.hooks = tuple(sorted(marked))

    def _refuse_conflicts(self) -> None:
        on = {name: ext for name, ext in self.extensions.items() if ext.status == "on"}
        for extension in on.values():
            manifest = extension.found.manifest
            clashing = [other for other in (manifest.conflicts if manifest else ()) if other in on]
            if clashing:
                extension.status = "refused"
                extension.reason = f"It cannot run beside {', '.join(clashing)}. Switch one of them off."

    def _sorted(self) -> list[str]:
        """The order of the hooks: what manifests say, then names."""
        sorter: graphlib.TopologicalSorter[str] = graphlib.TopologicalSorter()
        names = sorted(self.extensions)
        for name in names:
            manifest = self.extensions[name].found.manifest
            sorter.add(name)
            for earlier in manifest.after if manifest else ():
                if earlier in self.extensions:
                    sorter.add(name, earlier)
            for later in manifest.before if manifest else ():
                if later in self.extensions:
                    sorter.add(later, name)
        try:
            sorter.prepare()
        except graphlib.CycleError as error:
            log.warning("before and after of extensions go in a circle: %s; they run by name", error.args[1])
            return names
        order: list[str] = []
        while sorter.is_active():
            ready = sorted(sorter.get_ready())
            order += ready
            sorter.done(*ready)
        return order

    # -- calling

    def implementers(self, hook: str) -> list[str]:
        """The extensions whose hook of this name would be called, in order."""
        owners = {impl.plugin_name for impl in getattr(self._manager.hook, hook).get_hookimpls()}
        return [name for name in self._order if name in owners]

    def call(self, hook: str, owner: str, **arguments: Any) -> Any:
        """Call one extension's job hook.

        Raises:
            ExtensionFailed: naming the extension, the hook and the cause; a ``UserError`` of the hook's own (a bad
                request, a cancel) comes through as it is.
        """
        with _named(owner, hook):
            return self._timed(hook, owner, arguments)

    def call_beside(self, owner: str, what: str, function: Callable[[], Any]) -> Any:
        """Call what an extension gave us, from another thread than its hooks: guarded, and not among their times.

        Raises:
            ExtensionFailed: as ``call``.
        """
        with _named(owner, what), self._guard(owner, what):
            return function()

    def observe(self, hook: str, only: str | None = None, **arguments: Any) -> None:
        """Tell every observer, or ``only`` one; one that fails is warned of, and after three failures left out."""
        for owner in self.implementers(hook) if only is None else (only,):
            extension = self.extensions[owner]
            if extension.failures >= STRIKES:
                continue
            try:
                self._timed(hook, owner, arguments, observes=True)
            except BaseException as error:  # a KeyboardInterrupt, too: Ctrl+C reaches no job, nor the engine's process
                self.strike(owner, hook, error)

    def ask(self, hook: str, owner: str, **arguments: Any) -> Any:
        """Call one extension's hook; whatever it raises comes through, and is the caller's to ``strike``."""
        return self._timed(hook, owner, arguments)

    def strike(self, owner: str, hook: str, error: BaseException) -> None:
        """An observer failed: warn, and say so in the list; after three failures its observers are left out."""
        extension = self.extensions[owner]
        extension.failures += 1
        log.warning("observer %s of extension %s failed: %s", hook, owner, error, exc_info=error)
        words = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {str(error)[:200]}"
        extension.reason = f"{hook} failed: {words.rstrip('.')}" + (
            "; its observers are off until the next start." if extension.failures >= STRIKES else "."
        )

    def registered(self, hook: str, kind: type, only: str | None = None, **arguments: Any) -> Iterator[tuple[str, Any]]:
        """(owner, spec) of everything that a registry hook returns; an extension that returns something else is off.

        What ships is asked first, so that no other extension can take a name from it.
        """
        owners = sorted(self.implementers(hook), key=lambda name: not self.extensions[name].found.is_bundled)
        for owner in owners if only is None else (only,):
            try:
                given = self._timed(hook, owner, arguments)
                if not isinstance(given, Iterable):
                    raise TypeError(f"it returned {type(given).__name__}, no list of {kind.__name__}")
                specs = list(given)
                wrong = next((spec for spec in specs if not isinstance(spec, kind)), None)
                if wrong is not None:
                    raise TypeError(f"{hook} returned a {type(wrong).__name__} instead of a {kind.__name__}")
            except BaseException as error:
                detail = traceback.format_exc()[-5000:]
                self.switch_off(owner, f"{hook} failed: {type(error).__name__}: {str(error)[:200]}.", detail)
                continue
            yield from ((owner, spec) for spec in specs)

    def _timed(self, hook: str, owner: str, arguments: Mapping[str, Any], *, observes: bool = False) -> Any:
        extension = self.extensions[owner]
        impls = getattr(self._manager.hook, hook).get_hookimpls()
        impl = next(impl for impl in impls if impl.plugin_name == owner)
        started = time.perf_counter()
        outer, self._calling = self._calling, (owner, hook, observes)
        self._on_call(*self._calling)
        try:
            with self._guard(owner, hook):
                return impl.function(**{name: arguments[name] for name in impl.argnames})
        finally:
            self._calling = outer  # a nested job's hooks are called within another hook
            self._on_call(*outer)
            extension.seconds[hook] = extension.seconds.get(hook, 0.0) + time.perf_counter() - started
            extension.calls[hook] = extension.calls.get(hook, 0) + 1


@contextmanager
def _named(owner: str, hook: str) -> Iterator[None]:
    """Whatever a hook raises, ``sys.exit`` and KeyboardInterrupt too, as an error that names its extension."""
    try:
        yield
    except UserError:
        raise
    except BaseException as error:
        log.error("%s of extension %s failed\n%s", hook, owner, traceback.format_exc())
        raise ExtensionFailed(
            f"The extension {owner} failed in {hook}: {type(error).__name__}: {str(error)[:200]}.",
            "Switch it off for this picture, or look for a newer version; the log has the details.",
            field="extensions",
        ) from error


def _read_diary(path: Path) -> str:
    """What was being imported when the process ended without good-bye; "" if nothing was."""
    try:
        return str(json.loads(path.read_text(encoding="utf-8")).get("importing", ""))
    except (OSError, ValueError, AttributeError):
        return ""
