"""The routes of extensions: the list, on or off, the page with theirs, actions. Nothing is ever installed over HTTP."""

from __future__ import annotations

from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from backend.errors import BadRequest
from backend.request import parse_request
from webui.rest.body import check_names, json_object, text
from webui.studio import BY_HAND, Studio
from webui.word_lists import LONGEST


class ExtensionRoutes:
    """The handlers, around one studio."""

    def __init__(self, studio: Studio) -> None:
        self._studio = studio

    async def list(self, _request: Request) -> Response:
        """Every extension: version, status and why, hooks, and the time that they take."""
        rows = await run_in_threadpool(self._studio.extensions_json)
        told = {"extensions": rows, "restart": {"possible": self._studio.renewal is not None, "otherwise": BY_HAND}}
        return JSONResponse(told, headers={"cache-control": "no-store"})

    async def restart(self, request: Request) -> Response:
        """``{"what": "page"}``: start its process anew, so that extensions appear in it; engine and jobs go on.

        ``{"what": "engine"}``: that one instead, when no job runs; what hangs in it ends.
        """
        body = await json_object(request)
        check_names(body, ("what",))
        if text(body, "what", longest=20, default="page") == "page":
            told = self._studio.renew_page()
        elif body["what"] == "engine":
            told = await run_in_threadpool(self._studio.renew_engine)
        else:
            raise BadRequest("what is not usable.", "Accepted: page, engine.", field="what")
        return JSONResponse({"told": told}, 202)

    async def switch(self, request: Request) -> Response:
        """``{"on": true}`` approves the folder as it is now, ``false`` switches it off; the engine starts anew."""
        body = await json_object(request)
        check_names(body, ("on",))
        on = body.get("on")
        if not isinstance(on, bool):
            raise BadRequest("on is not usable.", "Accepted: true or false.", field="on")

        def switch() -> dict[str, Any]:
            return self._studio.switch_extension(request.path_params["name"], on=on)

        return JSONResponse(await run_in_threadpool(switch), 202)

    async def words(self, request: Request) -> Response:
        """Words of extensions for what is being typed (``typed``) behind a mark (``starts``; "": plain words)."""
        body = await json_object(request)
        check_names(body, ("starts", "typed"))
        starts, typed = (text(body, name, longest=LONGEST, default="") for name in ("starts", "typed"))
        typed, found = await run_in_threadpool(self._studio.find_words, starts, typed)
        return JSONResponse({"typed": typed, "words": found}, headers={"cache-control": "no-store"})

    async def act(self, request: Request) -> Response:
        """Run an action of a panel: a request's fields, flat, as for a job; what the action gives comes back."""
        body = await json_object(request)
        panel, name = request.path_params["panel"], request.path_params["name"]

        def run() -> dict[str, Any]:
            return self._studio.act(panel, name, parse_request(body))

        return JSONResponse(await run_in_threadpool(run), headers={"cache-control": "no-store"})
