"""Markup in everything that an extension may say to the page: it is shown as text, and nothing of it runs."""

from __future__ import annotations

import pytest

from backend.approvals import Approvals
from tests.browser.conftest import REAL, serving
from tests.builders import tiny_checkpoint
from tests.extending import approve_all

pytestmark = [pytest.mark.browser, pytest.mark.server]
BAD = "<img src=x onerror='window.ran=1'>"
MANIFEST = f"""
name = "hostile"
title = "{BAD} title"
version = "{BAD}"
description = "{BAD} description"
api = ">=1,<2"
engine = "hooks"
web = "web"
"""
ENGINE = f"""
from typing import Literal
from backend.api import *
BAD = "{BAD}"

class Values(Parameters):
    level: int = whole(2, low=1, high=9, label=BAD, help=BAD)
    kind: Literal["{BAD}", "b"] = choice("b", label=BAD)
    words: str = text(label=BAD)

def tell(job):
    job.note(BAD + " note")
    return ActionResult(text=BAD + " text", values={{"words": BAD}})

def fail(job):
    raise RuntimeError(BAD + " failure")

@hookimpl
def register_panels():
    actions = (ActionSpec("tell", BAD + " tell", tell, help=BAD), ActionSpec("fail", "Fail", fail))
    return [PanelSpec("hostile", BAD + " panel", Values, help=BAD, actions=actions)]

@hookimpl
def register_samplers():
    def sample(denoise, x, sigmas, *, on_step):
        raise BadRequest(BAD + " sampler.")
    return [deterministic("hostile", BAD + " sampler", sample)]
"""
WEB = f"""
import gradio as gr
from webui.api import *
BAD = "{BAD}"

@hookimpl
def register_tabs(studio):
    return [TabSpec("hostile", "{BAD}"[:40], draw)]

def draw(context):
    def handle():
        raise RuntimeError(BAD + " handler")
    gr.Button("Raise", elem_id="hostile_raise").click(handle)

@hookimpl
def register_words(studio):
    return [WordsSpec("words", lambda typed, most: [Word(BAD + " word", BAD + " fact")], starts="@")]

@hookimpl
def pick_next(jobs, studio):
    return None

@hookimpl
def job_ended(job, studio):
    raise RuntimeError(BAD + " observer")
"""


@pytest.fixture
def here(visit, tmp_path):
    (tmp_path / "models" / "checkpoints").mkdir(parents=True)
    tiny_checkpoint(tmp_path / "models" / "checkpoints" / "tiny-xl.safetensors", "sdxl")
    home = tmp_path / "extensions" / "hostile"
    home.mkdir(parents=True)
    (home / "extension.toml").write_text(MANIFEST)
    (home / "hooks.py").write_text(ENGINE)
    (home / "web.py").write_text(WEB)
    broken = tmp_path / "extensions" / "broken"
    broken.mkdir()
    (broken / "extension.toml").write_text(MANIFEST.replace('"hostile"', '"broken"'))
    for name in ("hooks", "web"):
        (broken / f"{name}.py").write_text(f"raise RuntimeError({BAD!r})")
    approve_all(tmp_path / "extensions", Approvals(tmp_path / "extensions.json"))
    with serving(tmp_path, REAL) as site:
        yield visit(site)


def test_nothing_that_an_extension_says_becomes_markup(here):
    page = here.page
    panel = page.locator("#txt2img_panel_hostile")
    panel.locator(".panel-title").click()
    panel.get_by_text(f"{BAD} panel").first.wait_for()
    panel.get_by_role("button", name=f"{BAD} tell").click()
    panel.get_by_text(f"{BAD} text").wait_for()
    panel.get_by_text(f"{BAD} note").wait_for()
    panel.get_by_role("button", name="Fail").click()
    panel.get_by_text(f"{BAD} failure").wait_for()

    area = page.locator("#txt2img_prompt textarea")
    area.focus()
    page.keyboard.type("a @")
    page.locator(".word-list .word").get_by_text(f"{BAD} word").wait_for()
    page.keyboard.press("Tab")
    assert area.input_value() == f"a @{BAD} word"

    here.choose("txt2img_sampling", f"{BAD} sampler")
    here.number("txt2img_steps", 2)
    assert here.generate("txt2img", state="failed")["error"]["what"] == f"{BAD} sampler."
    page.locator(".gradio-container").get_by_text(f"{BAD} sampler").first.wait_for()

    here.tab("Extensions")
    card = page.locator("[data-name=hostile]")
    card.get_by_text(f"{BAD} title").wait_for()
    card.get_by_text(f"{BAD} description").wait_for()
    page.locator("[data-name=broken]").get_by_text(f"RuntimeError: {BAD}").first.wait_for()
    page.get_by_role("tab", name=BAD[:40]).click()
    page.click("#hostile_raise")
    page.locator(".toast-body").filter(has_text="onerror").wait_for()
    assert page.evaluate("window.ran") is None
    assert page.locator("img[src=x]").count() == 0
