"""``easel extension check`` for the web side: imported, asked for tabs and routes, and its tabs drawn."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from backend.approvals import Approvals
from backend.manifest import Found, Manifest
from backend.plugins import Plugins
from backend.settings import Settings
from backend.testing.findings import Finding, held
from webui import hookspecs
from webui.gradio_start import prepare_gradio

NO_HOOK = "It implements no hook; mark its functions with webui.api.hookimpl."


def web_findings(home: Path, manifest: Manifest) -> Iterator[Finding]:
    """An extension's web side, line by line; the page around its tabs is that of an empty Easel."""
    has_torch = "torch" in sys.modules
    if "gradio" not in sys.modules:
        prepare_gradio()
    from webui.extension_host import ExtensionHost
    from webui.hook_calls import Deadlines, Watch
    from webui.page import build_page
    from webui.studio import Studio

    with tempfile.TemporaryDirectory(prefix="easel-check-", ignore_cleanup_errors=True) as folder:
        scratch, deadlines = Path(folder), Deadlines()
        approvals = Approvals(scratch / "extensions.json")
        approvals.set(Found(home, home.name, manifest), on=True)
        watch = Watch(scratch / "running", scratch / "easel.log", start_seconds=deadlines.start)
        plugins = Plugins(hookspecs, "web", watch)
        plugins.load(scratch / "none", [home.parent], approvals, scratch / "importing")
        loaded = plugins.extensions[home.name]
        imported = loaded.reason if loaded.status != "on" else "" if loaded.hooks else NO_HOOK
        yield held("web side", "it can be imported, and its hooks fit", imported)
        if imported:
            return
        studio = Studio(Settings(data_dir=scratch, models_dir=scratch / "models"))
        host = ExtensionHost(plugins, watch, studio, deadlines, approvals.read()["on"])
        try:
            build_page(studio, host)
        finally:
            host.close()
            studio.store.close()
    yield held("web side", "its tabs are drawn and its routes taken in", loaded.reason)
    brought = "it is in the process now" if not has_torch and "torch" in sys.modules else ""
    yield held("web side", "it brings no torch into the page's process", brought)
