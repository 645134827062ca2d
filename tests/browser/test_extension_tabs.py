"""Tabs of extensions in a real browser: the two ports at work beside one that cannot be drawn."""

from __future__ import annotations

import re

import httpx
import pytest

from tests.browser.conftest import FAKE, leave, open_page, serving
from tests.browser.waiting import until
from tests.extending import write_extension
from tests.formats.files import published, write_sparse
from tests.ports.place import install

pytestmark = [pytest.mark.browser, pytest.mark.server]

BROKEN = """
import gradio as gr
from webui.api import TabSpec, hookimpl

@hookimpl
def register_tabs():
    return [TabSpec("broken", "Broken", build)]

def build(context):
    gr.Textbox()
    raise ValueError("<img src=x onerror=alert(1)>")
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ports")
    (folder / "models" / "checkpoints").mkdir(parents=True)
    write_sparse(folder / "models" / "checkpoints" / "a-xl.safetensors", published("sdxl_base"))
    write_extension(folder / "extensions", "broken", BROKEN, side="web")
    install(folder, "agent_scheduler", "image_browsing")
    with serving(folder, FAKE) as running:
        yield running


@pytest.fixture(scope="module")
def here(place, chromium):
    studio = open_page(chromium, place)
    yield studio
    leave(studio)


def open_tab(here, name):
    here.page.evaluate("name => easel.showTab(name)", name)


def queue(place):
    told = httpx.get(f"{place.origin}/ext/agent_scheduler/queue", trust_env=False).json()
    return [job["prompt"] for job in told["jobs"]]


def test_a_tab_that_cannot_be_drawn_says_why_as_text(here):
    open_tab(here, "Broken")
    told = here.page.locator("#tab_ext_broken .tab-failed")
    told.wait_for()
    assert "ValueError: <img src=x onerror=alert(1)>" in told.inner_text()
    assert here.page.locator("#tab_ext_broken img").count() == 0


def test_the_schedulers_tab_pauses_orders_and_goes_on(here, place):
    page = here.page
    open_tab(here, "Agent Scheduler")
    page.get_by_role("button", name="Pause the queue").click()
    page.get_by_role("button", name="Go on").wait_for()
    open_tab(here, "txt2img")
    for words in ("first <b>", "second", "third"):
        here.prompt("txt2img", words)
        here.generate("txt2img", state="queued")
    page.locator("#txt2img_results .trouble").filter(has_text="Agent Scheduler holds the queue").wait_for()
    open_tab(here, "Agent Scheduler")
    page.locator("#agent_scheduler_queue").filter(has_text="third").wait_for()
    page.locator("#agent_scheduler_job input").click()
    page.get_by_role("option", name=re.compile("^third")).click()
    page.get_by_role("button", name="Run first").click()
    until(page, "() => document.querySelector('#agent_scheduler_queue tbody tr')?.innerText.includes('third')")
    assert queue(place) == ["third", "first <b>", "second"]
    page.get_by_role("button", name="Go on").click()
    page.get_by_text("No job waits.").wait_for()
    until(page, "() => document.querySelectorAll('#agent_scheduler_history tbody tr').length === 3")
    assert re.search(r"first <b>.*\d\d:\d\d:\d\d.* s\b", page.locator("#agent_scheduler_history").inner_text(), re.S)
    jobs = {job["prompt"]: job for job in place.jobs()}
    assert jobs["third"]["started"] < jobs["first <b>"]["started"] < jobs["second"]["started"]


def test_a_button_without_a_choice_says_so_in_a_toast(here):
    open_tab(here, "Agent Scheduler")
    here.page.get_by_role("button", name="Run first").click()
    here.page.get_by_text("No job is chosen. Choose a waiting one.").wait_for()


def test_the_browsing_tab_finds_a_picture_and_sends_it_to_img2img(here):
    page = here.page
    open_tab(here, "txt2img")
    for words in ("a fox in snow", "a boat"):
        here.prompt("txt2img", words)
        here.generate("txt2img")
    open_tab(here, "Image Browsing")
    page.locator("#image_browsing_grid button").first.wait_for()
    page.locator("#image_browsing_text textarea, #image_browsing_text input").first.fill("fox")
    until(page, "() => document.querySelectorAll('#image_browsing_grid button').length === 1")
    page.locator("#image_browsing_grid button").click()
    until(page, "() => document.querySelector('#image_browsing_told textarea').value.includes('a fox in snow')")
    page.get_by_role("button", name="Send to img2img").click()
    page.locator("#tab_img2img .picture-holder img.source").wait_for()
    until(page, "() => document.querySelector('#img2img_prompt textarea').value === 'a fox in snow'")


def test_the_extensions_tab_tells_hooks_and_time_of_the_page_side(here):
    open_tab(here, "extensions")
    card = here.page.locator('.extension[data-name="agent_scheduler"]')
    card.filter(has_text="pick_next").wait_for()
    assert "in its hooks since Easel's start" in card.inner_text()
    broken = here.page.locator('.extension[data-name="broken"]')
    assert "In the page: The tab 'Broken' failed: ValueError" in broken.inner_text()


@pytest.mark.parametrize("width", [1280, 390])
def test_tabs_of_extensions_fit_the_width(here, width):
    here.page.set_viewport_size({"width": width, "height": 900})
    for name in ("Agent Scheduler", "Image Browsing"):
        open_tab(here, name)
        here.page.wait_for_timeout(300)
        assert here.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name
    here.page.set_viewport_size({"width": 1280, "height": 1000})
