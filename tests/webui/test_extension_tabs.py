"""Tabs of extensions are drawn after Easel's; one that cannot be drawn has the reason in its place."""

from __future__ import annotations

import sys

import gradio as gr
import pytest

from backend.errors import BadRequest
from tests.webui.running import FAKE_ENGINE, settings_for
from tests.webui.test_extension_host import GOOD, write
from webui.studio import Studio

TAB = """
@hookimpl
def register_tabs():
    return [TabSpec({name!r}, {label!r}, build)]

def build(context):
"""
BUILDS = {
    "half": """
    box = gr.Textbox(label="half drawn", elem_id="half_drawn")
    box.change(lambda text: text, box, box)
    gr.Row().__enter__()
    gr.Column().__enter__()
    raise ValueError("no <b>more</b>")
""",
    "exit": '    gr.Markdown("x", elem_id="exit_drawn")\n    sys.exit(3)\n',
    "mute": """
    class Mute(gr.Textbox):
        def get_config(self):
            raise RuntimeError("it does not tell")
    Mute(elem_id="mute_drawn")
""",
    "open": '    gr.Row().__enter__()\n    gr.Markdown("left open", elem_id="open_drawn")\n',
    "works": """
    box = gr.Textbox(elem_id="works_box")
    out = gr.Textbox()
    def raises(text): raise ValueError("never <b>")
    def refuses(text): raise BadRequest("Not this <b>.", "Another.")
    def exits(text): sys.exit(1)
    async def waits(text): return text + threading.current_thread().name
    def counts(text):
        yield "1"
        raise ValueError("after one")
    async def counts_async(text):
        yield "1"
        yield "2"
    for number, handler in enumerate((raises, refuses, exits, waits, counts, counts_async)):
        gr.Button(str(number)).click(handler, box, out, api_name=handler.__name__)
    context.send_picture(gr.Button("send"), "img2img", box)
""",
}


@pytest.fixture(scope="module")
def studio(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tabs")
    write(folder, {name: TAB.format(name=name, label=name.title()) + code for name, code in BUILDS.items()})
    write(folder, {"good": GOOD})
    studio = Studio(settings_for(folder), command=FAKE_ENGINE)
    yield studio
    studio.store.close()


@pytest.fixture(scope="module")
def host(studio):
    from webui.extension_host import ExtensionHost

    return ExtensionHost.load(studio)


@pytest.fixture(scope="module")
def page(studio, host):
    from webui.page import build_page

    return build_page(studio, host)


def ids(page):
    return {block.elem_id for block in page.blocks.values() if getattr(block, "elem_id", None)}


def tab(page, name):
    return next(block for block in page.blocks.values() if getattr(block, "elem_id", None) == f"tab_ext_{name}")


def test_tabs_come_after_the_pages_own(page):
    labels = [block.label for block in page.blocks.values() if isinstance(block, gr.Tab)]
    assert labels[-7:] == ["Extensions", "Exit", "Good", "Half", "Mute", "Open", "Works"]
    assert "all_is_well" in ids(page)


@pytest.mark.parametrize(("name", "words"), [
    ("half", "ValueError: no &lt;b&gt;more&lt;/b&gt;"), ("exit", "SystemExit: 3"), ("mute", "it does not tell"),
])  # fmt: skip
def test_a_tab_that_cannot_be_drawn_shows_the_reason_and_leaves_nothing_behind(page, host, name, words):
    assert f"{name}_drawn" not in ids(page)
    [told] = tab(page, name).children
    assert words in told.value
    assert host.plugins.extensions[name].reason.startswith(f"The tab {name.title()!r} failed")
    known = set(page.blocks)
    for event in page.fns.values():
        assert {block._id for block in [*event.inputs, *event.outputs]} <= known
        assert {target for target, _ in event.targets if target is not None} <= known
    assert page.get_config_file()["components"]


def test_a_context_that_was_left_open_takes_in_no_other_tab(page):
    assert "open_drawn" in ids(page)
    assert tab(page, "works").parent is tab(page, "open").parent


def handler(page, name):
    return next(event.fn for event in page.fns.values() if event.api_name == name)


@pytest.mark.parametrize(("name", "words"), [
    ("raises", "The extension works failed: ValueError: never &lt;b&gt;."),
    ("refuses", "Not this &lt;b&gt;. Another."),
    ("exits", "The extension works failed: SystemExit: 1."),
])  # fmt: skip
def test_a_handlers_fault_is_a_toast(page, name, words):
    with pytest.raises(gr.Error) as raised:
        handler(page, name)("text")
    assert raised.value.message == words


def test_handlers_run_in_threads_generators_too(page, host):
    assert handler(page, "waits")("in ") == "in hook"
    assert list(handler(page, "counts_async")("")) == ["1", "2"]
    counted = handler(page, "counts")("")
    assert next(counted) == "1"
    with pytest.raises(gr.Error):
        next(counted)
    assert host.plugins.extensions["works"].calls["register_tabs"] >= 5


def test_pictures_go_to_tabs_that_take_them_alone():
    from webui.extending import TabContext

    with pytest.raises(BadRequest):
        TabContext(None, None).send_picture(None, "txt2img", None)
    assert "webui.page" in sys.modules
