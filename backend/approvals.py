"""Which extensions a user lets run: the answers on disk, each for the files as they were looked at."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from backend.manifest import API_VERSION, ExtensionRefused, Found, folder_hash
from backend.records.files import alone_with, write_atomically

log = logging.getLogger(__name__)

#: of an extension: on; off (by the user); new or changed (waits for approval); refused (manifest, API, conflicts);
#: failed (import, hooks, a clash of names); crashed (the process died or hung in its code).
Status = Literal["on", "off", "new", "changed", "refused", "failed", "crashed"]


class Approvals:
    """Which extensions a user has switched on, with the hash of what was looked at, and which ones are off.

    Lies in the data folder and is written by the command line and the page's guarded route, never by an extension; and
    by a process that finds that the one before it did not survive an import.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> dict[str, Any]:
        """{"on": {name: hash}, "off": [names], "crashed": [names]}; a file that cannot be read approves nothing."""
        try:
            found = json.loads(self._path.read_text(encoding="utf-8"))
            lists = {key: list(found.get(key, [])) for key in ("off", "crashed")}
            return {"on": dict(found.get("on", {})), **lists}
        except FileNotFoundError:
            return {"on": {}, "off": [], "crashed": []}
        except (OSError, ValueError, AttributeError, TypeError) as error:
            log.warning("%s cannot be read (%s); only the shipped extensions run", self._path.name, error)
            return {"on": {}, "off": [], "crashed": []}

    def set(self, found: Found, *, on: bool) -> None:
        """Switch an extension on, as its folder is now, or off."""
        seen = folder_hash(found.home) if on and not found.is_bundled else ""
        with self._changing() as kept:
            _forget(kept, found.name)
            if not on:
                kept["off"].append(found.name)
            elif not found.is_bundled:
                kept["on"][found.name] = seen

    def forget(self, name: str) -> None:
        """The extension is removed; one of its name that comes later is new."""
        with self._changing() as kept:
            _forget(kept, name)

    def note_crash(self, name: str) -> None:
        """A process died or hung in its code: it stays out until the user switches it on again."""
        with self._changing() as kept:
            if name not in kept["crashed"]:
                kept["crashed"].append(name)

    @contextmanager
    def _changing(self) -> Iterator[dict[str, Any]]:
        """What ``read`` gives; as it is when the block ends it is written, and nobody else writes meanwhile."""
        with alone_with(self._path):
            kept = self.read()
            yield kept
            write_atomically(self._path, json.dumps(kept, indent=1).encode())

    def status_of(self, found: Found) -> tuple[Status, str]:
        """Whether it may run, and if not what the user can do."""
        if found.error is not None or found.manifest is None:
            return "refused", str(found.error)
        if not found.manifest.fits():
            asked = found.manifest.api
            return "refused", f"It was written for API {asked}; this Easel has {API_VERSION}. Look for another version."
        kept = self.read()
        if found.name in kept["off"]:
            return "off", "Switched off."
        if found.name in kept["crashed"]:
            return "crashed", "The program died or hung in its code (import or hook). Switch it on to try again."
        if found.is_bundled:
            return "on", ""
        if found.name not in kept["on"]:
            return "new", "Not approved yet: an extension's code can do whatever you can. Approve it if you trust it."
        try:
            is_changed = kept["on"][found.name] != folder_hash(found.home)
        except (ExtensionRefused, OSError) as error:
            return "refused", str(error)
        if is_changed:
            return "changed", "Its files have changed since you approved it. Look at them and approve it again."
        return "on", ""


def _forget(kept: dict[str, Any], name: str) -> None:
    kept["on"].pop(name, None)
    for key in ("off", "crashed"):
        kept[key] = [each for each in kept[key] if each != name]
