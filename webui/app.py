"""The web application: REST, then gradio's page, behind the guard."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI

from webui.extension_routes import PREFIX
from webui.gradio_faults import GradioFaults
from webui.guard import Guard, Policy
from webui.limits import Limits
from webui.rest import add_rest
from webui.studio import Studio

if TYPE_CHECKING:
    import gradio
    from starlette.types import ASGIApp

    from backend.settings import Settings
    from webui.extension_host import ExtensionHost


# Whatever the page asks for: nothing of gradio's that keeps, tells or lets in more than Easel does.
CLOSED: Mapping[str, Any] = {
    "footer_links": [],
    "run_history": False,
    "enable_monitoring": False,
    "ssr_mode": False,
    "pwa": False,
    "mcp_server": False,
    "show_error": False,  # a gr.Error is shown all the same; any other exception's text may hold a path
    "max_file_size": 32 * 2**20,
}


def build_app(
    studio: Studio, blocks: gradio.Blocks, look: Mapping[str, Any] | None = None, host: ExtensionHost | None = None
) -> ASGIApp:
    """Everything that answers on the port. The guard stands in front of gradio's routes and the extensions' too.

    Args:
        look: theme, head and other keyword arguments for ``gr.mount_gradio_app``.
        host: the extensions whose routes are added.
    """
    leaving = studio.renewal.leaving if studio.renewal is not None else None
    return guarded(build_routes(studio, blocks, look, host), studio.settings, leaving)


def guarded(app: ASGIApp, settings: Settings, leaving: asyncio.Event | None = None) -> ASGIApp:
    """The application with everything that stands before its routes; ``leaving`` as ``Limits`` has it."""
    return Guard(Limits(GradioFaults(app), leaving=leaving), Policy.of(settings))


def build_routes(
    studio: Studio, blocks: gradio.Blocks, look: Mapping[str, Any] | None = None, host: ExtensionHost | None = None
) -> FastAPI:
    """The routes alone, without the guard."""
    import gradio as gr

    app = FastAPI(title="Easel", docs_url=None, redoc_url=None, openapi_url=None)
    add_rest(app, studio)
    if host is not None:
        app.mount(PREFIX, host.routes)
    options = {**(look or {}), **CLOSED, "server_name": "127.0.0.1", "server_port": studio.settings.port}
    gr.mount_gradio_app(app, blocks, path="/", **options)
    return app
