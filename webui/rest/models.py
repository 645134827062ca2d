"""The routes of model files: the list, what lies beside one, and what a person answers about it."""

from __future__ import annotations

import gzip
import json
import threading
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from backend.records.sidecars import notes_of
from webui.model_facts import model_json, models_json
from webui.rest.body import check_names, json_object, text
from webui.studio import Studio
from webui.thumbs import model_preview

ZIPPED_FROM = 20_000  # bytes; 5,000 files are some megabytes of much the same words
FOREVER = "private, max-age=31536000, immutable"  # the address holds the picture's time of change


class ModelRoutes:
    """The handlers, around one studio."""

    def __init__(self, studio: Studio) -> None:
        self._studio = studio
        self._lock = threading.Lock()
        self._told: tuple[int, bytes, bytes] = (-1, b"", b"")  # version, JSON, the same zipped

    async def list(self, request: Request) -> Response:
        """Every file in the models folders: what it is, or why it cannot be used; what is not read yet says so.

        New files are noticed within seconds; ``look=1`` looks before it answers.
        """
        if request.query_params.get("look"):
            await run_in_threadpool(self._studio.catalog.files.look)
        data, zipped = await run_in_threadpool(self._list)
        headers = {"cache-control": "no-store", "vary": "accept-encoding"}
        if len(data) >= ZIPPED_FROM and "gzip" in request.headers.get("accept-encoding", ""):
            return Response(zipped, media_type="application/json", headers={**headers, "content-encoding": "gzip"})
        return Response(data, media_type="application/json", headers=headers)

    async def one(self, request: Request) -> Response:
        """One file, with the notes that lie beside it."""

        def tell() -> dict[str, Any]:
            files = self._studio.catalog.files
            entry = files.entry(request.path_params["model_id"])
            notes = [{"label": note.label, "text": note.text} for note in notes_of(entry.note_files)]
            return {**model_json(entry, sha256=files.known_sha256(entry)), "sidecar": notes}

        return JSONResponse(await run_in_threadpool(tell), headers={"cache-control": "no-store"})

    async def preview(self, request: Request) -> Response:
        """The picture beside a file, as a small WebP."""
        data = await run_in_threadpool(model_preview, self._studio, request.path_params["model_id"])
        return Response(data, media_type="image/webp", headers={"cache-control": FOREVER})

    async def answer(self, request: Request) -> Response:
        """What a person says of a file that cannot tell it itself: ``model`` (its id), ``about``, ``answer``.

        An ``answer`` of null takes an earlier one back.
        """
        body = await json_object(request)
        check_names(body, ("model", "about", "answer"))
        model, about = (text(body, name, longest=255) for name in ("model", "about"))
        taken_back = "answer" in body and body["answer"] is None
        answer = None if taken_back else text(body, "answer", longest=255)

        def keep() -> dict[str, Any]:
            files = self._studio.catalog.files
            files.answer(files.entry(model), about, answer)
            entry = files.entry(model)
            return model_json(entry, sha256=files.known_sha256(entry))

        return JSONResponse(await run_in_threadpool(keep))

    def _list(self) -> tuple[bytes, bytes]:
        with self._lock:
            version, data, zipped = self._told
            if version != self._studio.catalog.files.version:
                version, told = models_json(self._studio.catalog.files)
                data = json.dumps(told).encode()
                zipped = gzip.compress(data, 1) if len(data) >= ZIPPED_FROM else b""
                self._told = (version, data, zipped)
            return data, zipped
