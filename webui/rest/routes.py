"""The routes. Each one takes the request apart, asks the studio, and puts the answer together."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import quote

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response

from backend.errors import BadRequest, Internal, NotFound, UserError
from backend.formats.presets import PRESETS
from backend.request import FIELDS, MAX_PROMPT, parse_request, request_schema
from webui.answers import status_of
from webui.rest.body import check_names, json_object, text
from webui.rest.extensions import ExtensionRoutes
from webui.rest.models import ModelRoutes
from webui.studio import Studio
from webui.thumbs import thumbnail

log = logging.getLogger(__name__)

ROUTES_HINT = (
    "Known below /api/v1: state, jobs, images, inputs, models, extensions, form, presets, registry, restart, schema, "
    "tokens, read, words."
)
MAX_JOBS = 200  # in one list
FOREVER = "private, max-age=31536000, immutable"  # an id never shows another picture
MEDIA = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp"}

Handler = Callable[[Request], Awaitable[Response]]


def add_rest(app: FastAPI, studio: Studio) -> None:
    """Add the routes of REST to the application; everything else below /api is a 404 in JSON."""
    rest, models, extensions = Rest(studio), ModelRoutes(studio), ExtensionRoutes(studio)
    routes: list[tuple[str, str, Handler]] = [
        ("GET", "/health", rest.health),
        ("GET", "/api/v1/state", rest.state),
        ("POST", "/api/v1/jobs", rest.submit),
        ("GET", "/api/v1/jobs", rest.jobs),
        ("GET", "/api/v1/jobs/{job_id}", rest.job),
        ("POST", "/api/v1/jobs/{job_id}/cancel", rest.cancel),
        ("GET", "/api/v1/images/{image_id}", rest.image),
        ("GET", "/api/v1/images/{image_id}/made", rest.made),
        ("POST", "/api/v1/inputs", rest.store_input),
        ("GET", "/api/v1/inputs/{sha256}", rest.input_picture),
        ("GET", "/api/v1/models", models.list),
        ("POST", "/api/v1/models/answers", models.answer),
        ("GET", "/api/v1/models/{model_id}", models.one),
        ("GET", "/api/v1/models/{model_id}/preview", models.preview),
        ("GET", "/api/v1/extensions", extensions.list),
        ("POST", "/api/v1/extensions/{name}", extensions.switch),
        ("POST", "/api/v1/restart", extensions.restart),
        ("POST", "/api/v1/words", extensions.words),
        ("POST", "/api/v1/extensions/{panel}/actions/{name}", extensions.act),
        ("POST", "/api/v1/form", rest.form),
        ("GET", "/api/v1/presets", rest.presets),
        ("GET", "/api/v1/registry", rest.registry),
        ("GET", "/api/v1/schema", rest.schema),
        ("POST", "/api/v1/tokens", rest.tokens),
        ("POST", "/api/v1/read", rest.read),
    ]
    for method, path, handler in routes:
        methods = ["GET", "HEAD"] if method == "GET" else [method]
        app.add_route(path, _told(handler), methods=methods)
    everything = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
    for path in ("/api", "/api/{rest:path}"):
        app.add_route(path, _told(rest.nothing), methods=everything)


class Rest:
    """The handlers, around one studio. What blocks (disk, pictures, SQLite) runs in a worker thread."""

    def __init__(self, studio: Studio) -> None:
        self._studio = studio
        self._state: tuple[int, bytes] = (-1, b"")

    async def health(self, _request: Request) -> Response:
        """That the server answers; the only route without a token, so it tells nothing else."""
        return JSONResponse({"status": "ok"})

    async def state(self, request: Request) -> Response:
        """The snapshot; with ``since`` equal to its version only ``{"version", "unchanged": true}``."""
        since = _whole_number(request, "since", default=-1)
        if since == self._studio.version:
            return JSONResponse({"version": since, "unchanged": True})
        version, data = self._state
        if version != self._studio.version:
            snapshot = await run_in_threadpool(self._studio.snapshot)
            data = await run_in_threadpool(lambda: json.dumps(snapshot).encode())
            self._state = (snapshot["version"], data)
        return Response(data, media_type="application/json", headers={"cache-control": "no-store"})

    async def submit(self, request: Request) -> Response:
        """A request's fields, flat; 202 when the job is on disk. An idempotency key makes two of the same one."""
        body = await json_object(request)
        key = request.headers.get("idempotency-key")
        if "idempotency_key" in body:
            key = text(body, "idempotency_key", longest=200)
            del body["idempotency_key"]

        def accept() -> dict[str, Any]:
            job = self._studio.submit(parse_request(body), key or None)
            return self._studio.jobs.one(job.id)

        told = await run_in_threadpool(accept)
        return JSONResponse(told, 202, headers={"location": f"/api/v1/jobs/{told['id']}"})

    async def jobs(self, request: Request) -> Response:
        """Jobs, newest first: ``limit`` of them."""
        limit = _whole_number(request, "limit", default=30, low=1, high=MAX_JOBS)
        jobs = await run_in_threadpool(lambda: self._studio.jobs.newest(limit))
        return JSONResponse({"jobs": jobs})

    async def job(self, request: Request) -> Response:
        """One job."""
        return JSONResponse(await run_in_threadpool(self._studio.jobs.one, request.path_params["job_id"]))

    async def cancel(self, request: Request) -> Response:
        """Stop a job; a finished one stays as it is."""
        job_id = request.path_params["job_id"]

        def stop() -> dict[str, Any]:
            self._studio.cancel(job_id)
            return self._studio.jobs.one(job_id)

        return JSONResponse(await run_in_threadpool(stop), 202)

    async def image(self, request: Request) -> Response:
        """A picture's file, byte for byte; ``thumb=1`` a small WebP; ``download=1`` as an attachment."""
        image_id = request.path_params["image_id"]
        if request.query_params.get("thumb"):
            data = await run_in_threadpool(thumbnail, self._studio, image_id)
            return Response(data, media_type="image/webp", headers={"cache-control": FOREVER})
        _, path = await run_in_threadpool(self._studio.image, image_id)
        kind = "attachment" if request.query_params.get("download") or path.suffix not in MEDIA else "inline"
        headers = {
            "content-disposition": f"{kind}; filename*=UTF-8''{quote(path.name)}",
            "cache-control": FOREVER,
        }
        return FileResponse(path, media_type=MEDIA.get(path.suffix, "application/octet-stream"), headers=headers)

    async def made(self, request: Request) -> Response:
        """A picture as a job lists it, and the request that it was made from."""
        told = await run_in_threadpool(self._studio.image_made, request.path_params["image_id"])
        return JSONResponse(told, headers={"cache-control": "no-store"})

    async def store_input(self, request: Request) -> Response:
        """A picture's bytes, kept by what they hash to."""
        stored = await run_in_threadpool(self._studio.store_input, await request.body())
        return JSONResponse(dataclasses.asdict(stored), 201)

    async def input_picture(self, request: Request) -> Response:
        """A stored input, as PNG."""
        path = await run_in_threadpool(self._studio.inputs.path, request.path_params["sha256"])
        return FileResponse(path, media_type="image/png", headers={"cache-control": FOREVER})

    async def form(self, request: Request) -> Response:
        """What the page's components hold (``values``), as the fields that its Generate would send."""
        body = await json_object(request)
        check_names(body, ("values",))
        values = body.get("values")
        if not isinstance(values, dict):
            raise BadRequest("values is not usable.", "Accepted: an object of fields.", field="values")
        check_names(values, FIELDS)

        def read() -> dict[str, Any]:
            from webui.form import to_request  # gradio: not while the server starts
            from webui.page import for_checkpoint

            return for_checkpoint(self._studio, to_request(values))

        return JSONResponse({"fields": await run_in_threadpool(read)})

    async def presets(self, _request: Request) -> Response:
        """Settings for few-step models: name, label, families, and the request's fields that each sets."""
        rows = [{"name": p.name, "label": p.label, "families": p.families, "fields": p.fields()} for p in PRESETS]
        return JSONResponse({"presets": rows})

    async def registry(self, _request: Request) -> Response:
        """Samplers and schedules."""
        return JSONResponse(self._studio.registry)

    async def schema(self, _request: Request) -> Response:
        """JSON Schema of what ``POST /api/v1/jobs`` takes."""
        return JSONResponse(request_schema())

    async def tokens(self, request: Request) -> Response:
        """How many tokens a prompt has for a checkpoint, and how many fit."""
        body = await json_object(request)
        check_names(body, ("checkpoint", "prompt"))
        checkpoint = text(body, "checkpoint", longest=255, default="")
        prompt = text(body, "prompt", longest=MAX_PROMPT)
        used, capacity = await run_in_threadpool(self._studio.count_tokens, checkpoint, prompt)
        told: dict[str, Any] = {"used": used, "capacity": capacity}
        t5 = await run_in_threadpool(self._studio.count_t5_tokens, checkpoint, prompt)
        if t5 is not None:
            told["t5"] = {"used": t5[0], "capacity": t5[1]}
        return JSONResponse(told)

    async def read(self, request: Request) -> Response:
        """What a picture's metadata say."""
        info = await run_in_threadpool(self._studio.read_picture, await request.body())
        return JSONResponse(dataclasses.asdict(info))

    async def nothing(self, request: Request) -> Response:
        """Anything else below /api."""
        raise NotFound(
            f"There is no {request.method} {request.url.path[:80]}.",
            ROUTES_HINT,
        )


def _told(handler: Handler) -> Handler:
    """A handler whose errors are answers: 4xx with code, what, todo, field; what is ours is logged and 500."""

    async def told(request: Request) -> Response:
        try:
            return await handler(request)
        except UserError as error:
            return JSONResponse(error.to_json(), status_of(error), headers={"cache-control": "no-store"})
        except ClientDisconnect:
            return Response(status_code=400)  # nobody listens any more
        except Exception:
            log.exception("a fault in %s %s", request.method, request.url.path)
            error = Internal("Easel itself failed.", "easel.log in the data folder has the details.")
            return JSONResponse(error.to_json(), status_of(error))

    return told


def _whole_number(request: Request, name: str, *, default: int, low: int = -1, high: int = 2**62) -> int:
    given = request.query_params.get(name)
    if given is None:
        return default
    digits = given.removeprefix("-")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 19 and low <= int(given) <= high):
        raise BadRequest(f"{name} is {given[:40]!r}.", f"Accepted: a whole number from {low} to {high}.", field=name)
    return int(given)
