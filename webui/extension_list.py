"""The extensions as page, REST and command line list them: what is installed, what the user said, how each fares.

Manifests and approvals are read here, so that the list is whole while the engine is down; no code is imported.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from backend.approvals import Approvals
from backend.errors import BadRequest, NotFound, unknown_name
from backend.manifest import Found, bundled_folder, find_extensions
from backend.settings import Settings

#: What the page's process says of an extension that came after its start.
NOT_LOADED: Mapping[str, Any] = {
    "status": "new", "reason": "", "detail": "", "hooks": [], "hook_seconds": {}, "hook_calls": {},
    "import_seconds": 0.0, "failures": 0, "approved": "",
}  # fmt: skip


def extension_rows(
    settings: Settings,
    reported: Iterable[Mapping[str, Any]] = (),
    web: Iterable[Mapping[str, Any]] = (),
    *,
    pictures: int = 0,
) -> list[dict[str, Any]]:
    """Every extension, bundled ones first.

    Args:
        reported: the engine's own rows: hooks, times, and what went wrong in it.
        web: the same of this process.
        pictures: that the engine has made since its start.
    """
    approvals = Approvals(settings.approvals)
    by_name = {str(row.get("name")): row for row in reported}
    here = {str(row.get("name")): row for row in web}
    approved, rows = approvals.read()["on"], []
    for found in _all(settings):
        row = _row(found, approvals, settings, by_name.get(found.name), pictures) | {"web": None}
        if found.name in here or (found.manifest is not None and found.manifest.web is not None):
            told = here.get(found.name, NOT_LOADED)
            row["web"] = _web_part(str(row["status"]), told, approved.get(found.name, ""))
        rows.append(row)
    return sorted(rows, key=lambda row: (not row["bundled"], row["name"]))


def switch_extension(settings: Settings, name: str, *, on: bool) -> Found:
    """Approve an extension as its folder is now, or switch it off; the engine heeds it when it starts.

    Raises:
        NotFound: none is called so.
        ExtensionRefused, BadRequest: it cannot run with this Easel, whatever the user says.
    """
    everything = list(_all(settings))
    found = next((each for each in everything if each.name == name and each.error is None), None)
    found = found or next((each for each in everything if each.name == name), None)
    if found is None:
        raise NotFound(unknown_name("Extension", name, {each.name for each in everything}))
    approvals = Approvals(settings.approvals)
    status, reason = approvals.status_of(found)
    if on and found.error is not None:
        raise found.error
    if on and status == "refused":
        raise BadRequest(f"{name} cannot be switched on. {reason}")
    approvals.set(found, on=on)
    return found


def leave_out(settings: Settings, name: str) -> bool:
    """Every start or job would die of this extension: it stays out until the user switches it on again.

    What ships with Easel is not left out (False): a machine without memory can kill the engine anywhere.
    """
    if any(found.is_bundled and found.name == name for found in _all(settings)):
        return False
    Approvals(settings.approvals).note_crash(name)
    return True


def _all(settings: Settings) -> Iterable[Found]:
    return find_extensions(bundled_folder(), settings.extension_folders)


def _web_part(status: str, told: Mapping[str, Any], approved: str) -> dict[str, Any]:
    """What an extension does in the page's process, and whether that is what the user wants by now."""
    kept = ("status", "reason", "detail", "hooks", "hook_seconds", "hook_calls", "import_seconds", "failures")
    part = {key: told[key] for key in kept}
    if told["status"] not in {"on", "failed"}:  # why it does not run stands in the row itself, and may be over
        part |= {"reason": "", "detail": ""}
    runs, wanted = told["status"] in {"on", "failed"}, status in {"on", "failed"}
    is_old = runs and told["approved"] != approved  # it has been changed and approved again since
    part["pending"] = wanted != runs or is_old or bool(part["hooks"] and told["status"] == "off")  # tabs still there
    return part


def _row(
    found: Found, approvals: Approvals, settings: Settings, told: Mapping[str, Any] | None, pictures: int
) -> dict[str, Any]:
    status, reason = approvals.status_of(found)
    row: dict[str, Any] = {
        "name": found.name,
        "title": found.manifest.title if found.manifest else found.name,
        "version": found.manifest.version if found.manifest else "",
        "description": found.manifest.description if found.manifest else "",
        "bundled": found.is_bundled,
        "folder": str(found.folder),
        "status": status,
        "reason": reason,
        "detail": "",
        "hooks": [],
        "import_seconds": None,
        "seconds_per_picture": None,
        "hook_seconds": {},
        "hook_calls": {},
        "pending": False,
    }
    if settings.no_extensions and status == "on":
        return row | {"status": "off", "reason": "This Easel was started with --no-extensions."}
    if told is None or status == "refused":
        return row
    ran = told.get("status") in {"on", "failed", "crashed", "refused"}
    if (status == "on") != ran:  # the engine has not been started since
        return row | {"pending": True}
    if status != "on":
        return row
    kept = {
        key: told[key] for key in ("status", "reason", "detail", "hooks", "hook_seconds", "hook_calls") if key in told
    }
    seconds = sum(float(spent) for spent in kept.get("hook_seconds", {}).values())
    figures = {"import_seconds": told.get("import_seconds")}
    if pictures:
        figures["seconds_per_picture"] = round(seconds / pictures, 4)
    return row | kept | figures
