"""Models in the page: the picker and its search, the Models tab, sidecars, questions, and what changes."""

from __future__ import annotations

import dataclasses
import json

import pytest
from PIL import Image

from backend.formats.detect import detect
from backend.formats.reader import read_header
from backend.records.readings import Readings, Stamp
from tests.browser.conftest import FAKE, serving
from tests.formats.files import published, write_sparse

HOSTILE = '<img src=x onerror="alert(1)">'
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
MANY = 1000


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two checkpoints of ours, one of them with everything beside it, and a thousand in another program's tree."""
    root = tmp_path_factory.mktemp("models")
    ours, theirs = root / "models" / "checkpoints", root / "forge" / "models" / "Stable-diffusion"
    ours.mkdir(parents=True)
    theirs.mkdir(parents=True)
    write_sparse(ours / "a-xl.safetensors", published("sdxl_base"))
    write_sparse(ours / "b-sd3.safetensors", published("sd3_medium_incl_clips_t5xxl"))
    Image.new("RGB", (400, 600), (200, 60, 40)).save(ours / "a-xl.preview.png")
    (ours / "a-xl.json").write_text(json.dumps({"activation text": HOSTILE + " fox", "notes": "a & b"}))
    info = detect(read_header(ours / "a-xl.safetensors"))
    told = {}
    for number in range(MANY):  # their headers count as read: that would take a while
        path = theirs / f"set-{number:04}.safetensors"
        path.write_bytes(b"")
        status = path.stat()
        told[str(path)] = (Stamp(0, status.st_mtime_ns), dataclasses.replace(info, path=path, name=path.stem))
    Readings(root / "models.sqlite").put(told)
    (root / "settings.toml").write_text(f"models_from = {json.dumps([str(root / 'forge'), str(root / 'gone')])}\n")
    return root


@pytest.fixture(scope="module")
def library(folder):
    with serving(folder, FAKE) as running:
        yield running


def read_all(here):
    here.until("() => easel.models.length > 2 && easel.modelsTold.unread === 0", timeout=90_000)


def test_the_picker_is_searched_by_name_and_variant_and_taken_by_keys(library, visit):
    here = visit(library)
    read_all(here)
    here.page.locator("#checkpoint_picker button").focus()
    here.page.keyboard.press("Enter")
    here.page.locator(".picker-count").filter(has_text=f"{MANY + 2} of {MANY + 2}").wait_for()
    assert here.page.locator(".picker-option").count() < 200  # not a thousand rows at once
    took = here.page.evaluate(
        """() => { const box = document.querySelector('.picker-search'), started = performance.now();
        box.value = 'set sdxl 0733'; box.dispatchEvent(new Event('input')); return performance.now() - started; }"""
    )
    assert took < 250
    assert here.page.locator(".picker-option .picker-name").all_inner_texts() == ["set-0733"]
    here.page.locator(".picker-search").fill("medium")
    here.page.locator(".picker-option").filter(has_text="b-sd3").wait_for()
    here.page.keyboard.press("Escape")
    assert here.page.locator(".picker-panel").count() == 0
    assert here.page.evaluate("document.activeElement.className") == "picker-button"
    here.page.keyboard.press("Enter")
    for _ in range(70):  # past the rows that were drawn at first
        here.page.keyboard.press("ArrowDown")
    here.page.locator(".picker-option.active").filter(has_text="set-0069").wait_for()
    here.page.keyboard.press("Enter")
    here.until("easel.form.shared.checkpoint === 'set-0069' && !easel.isWaiting")
    assert here.value("sd_model_checkpoint") == "set-0069"
    here.prompt("txt2img", "a fox")
    assert here.generate("txt2img")["request"]["checkpoint"] == "set-0069"


def test_generate_right_after_choosing_takes_what_was_chosen(library, visit):
    here = visit(library)
    read_all(here)
    here.choose_checkpoint("a-xl")
    here.prompt("txt2img", "a fox")
    before = here.page.evaluate("easel.state.jobs.length ? easel.state.jobs[0].id : ''")
    here.page.evaluate(
        "() => { easel.checkpointChosen('b-sd3', true); document.querySelector('#txt2img_generate').click(); }"
    )
    assert here.wait(before)["request"]["checkpoint"] == "b-sd3"


def test_the_picker_fills_a_phone(library, visit):
    here = visit(library, **PHONE)
    read_all(here)
    here.page.locator("#checkpoint_picker button").tap()
    panel = here.page.locator(".picker-panel").bounding_box()
    assert (panel["x"], panel["y"], panel["width"], panel["height"]) == (0, 0, 390, 844)
    here.page.locator(".picker-search").fill("b-sd")
    here.page.locator(".picker-option").first.tap()
    here.until("easel.form.shared.checkpoint === 'b-sd3'")
    assert here.page.evaluate("document.documentElement.scrollWidth") <= 390


def test_the_models_tab_is_searched_filtered_and_grows(library, visit):
    here = visit(library)
    read_all(here)
    here.tab("Models")
    here.page.locator(".model").first.wait_for()
    assert here.page.locator(".models-part .notes").inner_text() == "gone: there is no such folder (models_from)."
    assert here.page.locator(".model").count() < 200
    here.page.locator(".model").last.scroll_into_view_if_needed()
    here.until("document.querySelectorAll('.model').length > 60")
    here.page.get_by_label("Search models").fill("forge 0999")
    assert here.page.locator(".model").count() == 1
    here.page.get_by_label("Search models").fill("")
    here.page.get_by_label("Family").select_option("sd3")
    assert here.page.locator(".model strong").all_inner_texts() == ["b-sd3"]
    here.page.get_by_role("button", name="Use", exact=True).click()
    here.until("easel.form.shared.checkpoint === 'b-sd3' && easel.activeTab() === 'txt2img'")


def test_pictures_and_notes_beside_a_file_are_shown_as_text(library, visit):
    here = visit(library)
    read_all(here)
    here.tab("Models")
    here.page.get_by_label("Search models").fill("a-xl")
    here.until("document.querySelector('.model .model-picture img').naturalWidth > 100")
    here.page.get_by_text("Notes", exact=True).click()
    here.page.locator(".model-sidecar").filter(has_text="a & b").wait_for()
    assert here.page.locator(".model-sidecar dd").first.inner_text() == "fox"
    assert here.page.locator("img[src='x']").count() == 0


def test_new_files_and_questions_appear_by_themselves_and_an_answer_is_kept(library, visit, folder):
    here = visit(library)
    read_all(here)
    path = folder / "models" / "checkpoints" / "c-big.safetensors"
    write_sparse(path, published("sd35_large") | prefixed_clips())
    here.until("easel.models.some((m) => m.name === 'c-big' && m.read)")
    here.choose_checkpoint("c-big")
    question = here.page.locator(".open-question")
    question.get_by_role("button", name="SD3.5 Large Turbo").click()
    here.until("easel.checkpoint().variant === 'SD3.5 Large Turbo'")
    here.until("easel.form.tabs.txt2img.steps === 4")  # its own defaults came with it
    question.wait_for(state="detached")
    here.page.reload()
    here.settled()
    assert here.page.evaluate("easel.checkpoint().variant") == "SD3.5 Large Turbo"
    assert question.count() == 0
    here.tab("Models")
    here.page.get_by_label("Search models").fill("c-big")
    here.page.locator(".question").get_by_role("button", name="SD3.5 Large", exact=True).click()
    here.until("easel.checkpoint().variant === 'SD3.5 Large'")
    path.unlink()
    here.until("!easel.models.some((m) => m.name === 'c-big')")


def prefixed_clips():
    """The text encoders of an all-in-one file."""
    whole = published("sd3_medium_incl_clips_t5xxl")
    return {key: value for key, value in whole.items() if key.startswith("text_encoders.clip")}


def test_a_picture_names_its_model_by_hash(library, visit, folder):
    here = visit(library)
    read_all(here)
    write_sparse(folder / "models" / "checkpoints" / "renamed.safetensors", published("sdxl_base"))
    status = (folder / "models" / "checkpoints" / "renamed.safetensors").stat()
    told = {str(folder / "models/checkpoints/renamed.safetensors"): {
        "size": status.st_size, "mtime_ns": status.st_mtime_ns, "sha256": "0123456789" + "a" * 54}}  # fmt: skip
    (folder / "hashes.json").write_text(json.dumps(told))
    here.until("easel.models.some((m) => m.name === 'renamed' && m.hash === '0123456789')")
    text = "a fox\nSteps: 9, Sampler: Euler, CFG scale: 7, Seed: 1, Model hash: 0123456789, Model: their name for it"
    here.prompt("txt2img", text)
    here.page.click("#txt2img_paste")
    here.until("easel.form.shared.checkpoint === 'renamed' && easel.form.tabs.txt2img.steps === 9")
