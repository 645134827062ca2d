"""The files of a new extension with a web side: a tab, a route and an observer, a README and a test."""

from __future__ import annotations

from collections.abc import Mapping

MANIFEST = """\
name = "{name}"
title = "{title}"
version = "1"
api = ">=1,<2"
description = "How many pictures each checkpoint has made."
web = "web"
"""

WEB = '''\
"""{title}: a tab and a route that tell how many pictures each checkpoint has made."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import gradio as gr
from fastapi import APIRouter

from webui.api import JobRecord, StudioView, TabContext, TabSpec, hookimpl


def count(jobs: Iterable[JobRecord]) -> Mapping[str, int]:
    """Pictures by checkpoint, the most first."""
    counted = Counter[str]()
    for job in jobs:
        counted[job.request.checkpoint or "(none)"] += len(job.pictures)
    return dict(counted.most_common())


def table(counted: Mapping[str, int]) -> str:
    """The same as HTML; names come from files, so they are escaped."""
    rows = (f"<tr><td>{{html.escape(name)}}</td><td>{{number}}</td></tr>" for name, number in counted.items())
    return f"<table><tr><th>Checkpoint</th><th>Pictures</th></tr>{{''.join(rows)}}</table>"


@hookimpl
def register_tabs(studio: StudioView) -> Sequence[TabSpec]:
    """Asked once, as the page is drawn."""
    return [TabSpec("{name}", "{title}", draw)]


def draw(context: TabContext) -> None:
    """Draws the tab, once; a handler runs when the tab is opened."""
    shown = gr.HTML()
    context.tab.select(lambda: table(count(context.studio.jobs(1000))), None, shown, api_visibility="private")


@hookimpl
def register_routes(studio: StudioView) -> APIRouter:
    """Asked once; what is added here answers below /ext/{name}/."""
    router = APIRouter()

    @router.get("/counts")
    def counts() -> Mapping[str, int]:
        return count(studio.jobs(1000))

    return router
'''

README = """\
# {title}

An extension for Easel's page: a tab that counts pictures by checkpoint, and the same as JSON at `/ext/{name}/counts`.

Copy or link this folder into `extensions/` of Easel's data folder, look at it in the Extensions tab and approve it
(or `easel extension enable {name}`), then press *Restart the page* there: tabs and routes are taken in as it starts.

`easel extension check .` imports it and draws its tab; `pytest` runs the test.
"""

TEST = '''\
"""What the tab shows; run with pytest where Easel is installed."""

import importlib
import sys
from pathlib import Path

HOME = Path(__file__).parents[1]
sys.path.insert(0, str(HOME.parent))
web = importlib.import_module(f"{{HOME.name}}.web")


def test_names_are_shown_as_text():
    assert "<td>&lt;b&gt;</td><td>3</td>" in web.table({{"<b>": 3}})
'''

WEB_FILES: Mapping[str, str] = {
    "extension.toml": MANIFEST,
    "web.py": WEB,
    "README.md": README,
    "tests/test_{name}.py": TEST,
}
