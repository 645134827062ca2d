"""Infinite Image Browsing's core on Easel's web hooks: an index of what is saved, its routes and its tab."""

from __future__ import annotations

import functools
import html
import threading
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import gradio as gr
from fastapi import APIRouter, Query
from fastapi.staticfiles import StaticFiles

from webui.api import BadRequest, NotFound, PictureRecord, StudioView, TabContext, TabSpec, UserError, hookimpl

from .index import KINDS, Entry, Index, words_of

ENDINGS = {".png", ".jpg", ".webp"}
CLICKS = """
element.addEventListener("click", (event) => {
  const chosen = event.target.closest("[data-picture]");
  if (chosen) trigger("click", { id: chosen.dataset.picture });
});
"""


@functools.cache
def index_of(folder: Path) -> Index:
    """The index that is kept in a data folder, opened once."""
    return Index(folder / "index.sqlite")


def take_in(studio: StudioView, picture: PictureRecord) -> None:
    """Read a picture's metadata and index it."""
    info = studio.read_metadata(picture.id)
    made = info.picture or {}
    prompt, negative = str(made.get("prompt", "")), str(made.get("negative_prompt", ""))
    tags = [("word", word) for word in words_of(prompt)]
    tags += [("model", str(made["checkpoint"]))] if made.get("checkpoint") else []
    tags += [("sampler", str(made["sampler"]))] if made.get("sampler") else []
    tags += [("size", f"{picture.width} x {picture.height}")]
    entry = Entry(picture.id, picture.created, prompt, negative, picture.width, picture.height, picture.seed)
    index_of(studio.data_folder).add(entry, tags)


def catch_up(studio: StudioView) -> None:
    """Index what was saved while this extension was not there, newest first."""
    index, before = index_of(studio.data_folder), None
    while batch := studio.pictures(200, before=before):
        for picture in batch:
            if not index.knows(picture.id):
                try:
                    take_in(studio, picture)
                except UserError:  # its file is gone
                    continue
        before = batch[-1].id


@hookimpl
def on_startup(studio: StudioView) -> None:
    """Thousands of pictures take a while: in a thread of its own."""
    index_of(studio.data_folder)
    threading.Thread(target=catch_up, args=[studio], name="image-browsing", daemon=True).start()


@hookimpl
def on_shutdown(studio: StudioView) -> None:
    """Give the file free."""
    index_of(studio.data_folder).close()
    index_of.cache_clear()


@hookimpl
def picture_saved(picture: PictureRecord, studio: StudioView) -> None:
    """One more."""
    take_in(studio, picture)


@hookimpl
def register_routes(studio: StudioView) -> APIRouter:
    """Search, tags, one picture's metadata, and the outputs folder as it lies on disk."""
    router, index = APIRouter(), index_of(studio.data_folder)

    @router.get("/pictures")
    def pictures(
        text: Annotated[str, Query(max_length=200)] = "",
        word: str = "",
        model: str = "",
        sampler: str = "",
        limit: Annotated[int, Query(ge=1, le=500)] = 60,
    ) -> dict[str, Any]:
        tags = {kind: name for kind, name in (("word", word), ("model", model), ("sampler", sampler)) if name}
        return {"pictures": [_row(entry) for entry in index.search(text, tags, limit=limit)]}

    @router.get("/pictures/{picture}")
    def picture(picture: str) -> dict[str, Any]:
        return asdict(studio.read_metadata(picture))

    @router.get("/tags/{kind}")
    def tags(kind: str) -> dict[str, Any]:
        if kind not in KINDS:
            raise NotFound(f"There are no tags of the kind {kind[:40]!r}.", f"Known: {', '.join(KINDS)}.")
        return {"tags": [{"name": name, "pictures": count} for name, count in index.tags(kind)]}

    @router.get("/folders")
    def folders() -> dict[str, Any]:
        found = sorted((path for path in studio.outputs_folder.glob("*") if path.is_dir()), reverse=True)
        return {"folders": [{"name": path.name, "pictures": len(_files(path))} for path in found]}

    @router.get("/folders/{day}")
    def folder(day: str) -> dict[str, Any]:
        place = studio.outputs_folder / day
        if "/" in day or day.startswith(".") or not place.is_dir():
            raise NotFound(f"There is no folder {day[:40]!r} of pictures.")
        files = [{"name": path.name, "parameters": _parameters(studio, path)} for path in _files(place)]
        return {"files": files}

    router.mount("/static", StaticFiles(directory=Path(__file__).parent / "static"))
    return router


@hookimpl
def register_tabs(studio: StudioView) -> Sequence[TabSpec]:
    """Search and look."""
    return [TabSpec("image_browsing", "Image Browsing", _draw)]


def _draw(context: TabContext) -> None:
    studio, index = context.studio, index_of(context.studio.data_folder)
    with gr.Row():
        text = gr.Textbox(label="Words in the prompt", elem_id="image_browsing_text", scale=3, min_width=200)
        model = gr.Dropdown([], label="Model", elem_id="image_browsing_model", min_width=140)
        sampler = gr.Dropdown([], label="Sampler", min_width=140)
    grid = gr.HTML("", elem_id="image_browsing_grid", js_on_load=CLICKS)
    chosen = gr.Textbox(visible="hidden", label="Chosen picture", elem_id="image_browsing_chosen")
    told = gr.Textbox(label="Parameters", lines=4, interactive=False, elem_id="image_browsing_told")
    with gr.Row():
        to_img2img = gr.Button("Send to img2img", size="md", min_width=140)
        to_inpaint = gr.Button("Send to inpaint", size="md", min_width=140)
    context.send_picture(to_img2img, "img2img", chosen)
    context.send_picture(to_inpaint, "inpaint", chosen)

    def search(words: str, of_model: str | None, by_sampler: str | None) -> str:
        tags = {kind: name for kind, name in (("model", of_model), ("sampler", by_sampler)) if name}
        return _grid(index.search(words, tags))

    def opened(words: str, of_model: str | None, by_sampler: str | None) -> tuple[str, Any, Any]:
        models, samplers = ([("all", ""), *((f"{n} ({c})", n) for n, c in index.tags(k))] for k in ("model", "sampler"))
        found = search(words, of_model, by_sampler)
        return found, gr.update(choices=models), gr.update(choices=samplers)

    def choose(event: gr.EventData) -> tuple[str, str]:
        picture = str((event._data or {}).get("id", ""))
        if not picture:
            raise BadRequest("No picture is chosen.")
        return picture, studio.read_metadata(picture).parameters

    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    asked = [text, model, sampler]
    context.tab.select(opened, asked, [grid, model, sampler], **quiet)
    for box in asked:
        box.change(search, asked, grid, **quiet)
    grid.click(choose, None, [chosen, told], **quiet)


def _grid(entries: Sequence[Entry]) -> str:
    if not entries:
        return "<p>Nothing was found.</p>"
    buttons = (
        f'<button type="button" data-picture="{html.escape(entry.id)}" title="{html.escape(entry.prompt[:200])}">'
        f'<img src="/api/v1/images/{html.escape(entry.id)}?thumb=1" alt="{html.escape(entry.prompt[:80])}" '
        'loading="lazy"></button>'
        for entry in entries
    )
    style = '<link rel="stylesheet" href="/ext/image_browsing/static/browsing.css">'
    return f'{style}<div class="browsing-grid">{"".join(buttons)}</div>'


def _row(entry: Entry) -> dict[str, Any]:
    url = f"/api/v1/images/{entry.id}"
    return {**asdict(entry), "url": url, "thumb": f"{url}?thumb=1"}


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix in ENDINGS)


def _parameters(studio: StudioView, path: Path) -> str:
    try:
        return studio.read_metadata(path).parameters
    except UserError as error:
        return str(error)
