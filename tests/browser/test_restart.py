"""The page started anew: it comes back by itself, with what stood in it, while a job runs."""

from __future__ import annotations

import sys

import pytest

from tests.browser.conftest import FAKE, leave, open_page, serving
from tests.extending import write_extension
from tests.formats.files import published, write_sparse
from tests.webui.test_server import LAUNCH

pytestmark = [pytest.mark.browser, pytest.mark.server]

TALLY = """
import gradio as gr
from webui.api import TabSpec, hookimpl

@hookimpl
def register_tabs(studio):
    return [TabSpec("tally", "Tally", draw)]

def draw(context):
    name = gr.Textbox(label="Name", elem_id="tally_name")
    shown = gr.Textbox(label="Told", elem_id="tally_told")
    gr.Button("Greet", elem_id="tally_greet").click(lambda who: f"Hello, {who}!", name, shown)
"""


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    """The launcher, the real web process below it, and the fake engine."""
    folder = tmp_path_factory.mktemp("launched")
    checkpoints = folder / "models" / "checkpoints"
    checkpoints.mkdir(parents=True)
    write_sparse(checkpoints / "a-xl.safetensors", published("sdxl_base"))
    with serving(folder, ["-c", LAUNCH, sys.executable, *FAKE]) as site:
        yield site


@pytest.fixture
def studio(chromium, launched):
    studio = open_page(chromium, launched)
    yield studio
    leave(studio)


def switch(studio, label: str) -> None:
    studio.tab("Extensions")
    studio.page.get_by_role("button", name=f"{label}: tally").click()
    studio.page.get_by_role("button", name="Restart the page").click()


def test_an_approved_tab_appears_and_the_form_picture_mask_and_job_are_still_there(studio, launched, picture):
    write_extension(launched.data_dir / "extensions", "tally", TALLY, side="web")
    page = studio.page
    studio.tab("inpaint")
    page.locator("#inpaint_mask input[type=file]").first.set_input_files(picture(96, 64))
    studio.until("() => easel.pictures.inpaint && easel.pictures.inpaint.mask")
    studio.stroke(page.locator("#inpaint_mask .frame"), [(0.4, 0.5), (0.6, 0.5)])
    painted = page.evaluate("easel.pictures.inpaint.mask.data.reduce((sum, each) => sum + each, 0)")
    assert painted > 0
    studio.prompt("inpaint", "a hat")
    studio.tab("txt2img")
    studio.number("txt2img_steps", 120)
    studio.prompt("txt2img", "slow boats")
    job = studio.generate("txt2img", state="running")
    page.evaluate("window.before = true")
    switch(studio, "Approve")
    studio.until("() => !window.before && easel.isRestored")
    page.get_by_role("tab", name="Tally").wait_for()
    studio.until("() => easel.activeTab() === 'extensions'")
    assert page.evaluate("id => easel.state.jobs.find((job) => job.id === id).state", job["id"]) in {"running", "done"}
    assert (studio.value("txt2img_prompt"), studio.value("txt2img_steps")) == ("slow boats", "120")
    studio.tab("inpaint")
    studio.until(
        "sum => easel.pictures.inpaint.mask && easel.pictures.inpaint.mask.data.reduce((a, b) => a + b, 0) === sum",
        arg=painted,
    )
    assert studio.value("inpaint_prompt") == "a hat"
    studio.tab("Tally")
    page.locator("#tally_name input, #tally_name textarea").fill("you")
    page.click("#tally_greet")
    studio.until("() => document.querySelector('#tally_told textarea, #tally_told input').value === 'Hello, you!'")
    studio.until("id => easel.state.jobs.find((job) => job.id === id).state === 'done'", arg=job["id"])
    assert page.evaluate("id => easel.state.jobs.find((job) => job.id === id).images.length", job["id"]) == 1


def test_what_would_be_lost_is_asked_for_and_generate_works_in_a_page_that_is_old(studio):
    page = studio.page
    studio.tab("Tally")
    page.locator("#tally_name input, #tally_name textarea").fill("a draft")
    page.evaluate("window.before = true")
    switch(studio, "Switch off")
    page.get_by_role("alert").get_by_role("button", name="Load the page").wait_for()
    assert page.evaluate("window.before")
    studio.tab("txt2img")
    studio.number("txt2img_steps", 4)
    studio.prompt("txt2img", "a fox")
    assert studio.generate("txt2img")["prompt"] == "a fox"
    studio.tab("Tally")
    page.click("#tally_greet")  # nobody there answers it any more, and nobody else either
    page.get_by_role("button", name="Load the page").click()
    studio.until("() => !window.before && easel.isRestored")
    assert page.get_by_role("tab", name="Tally").count() == 0
    assert studio.value("txt2img_prompt") == "a fox"
