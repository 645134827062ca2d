"""Buttons of panels in the page: what an action gives is shown, edited and used."""

from __future__ import annotations

import pytest

from backend.approvals import Approvals
from tests.acting import BUTTONS
from tests.browser.conftest import REAL, serving
from tests.builders import tiny_checkpoint
from tests.extending import approve_all, write_extension

pytestmark = [pytest.mark.browser, pytest.mark.server]


@pytest.fixture
def panel(visit, tmp_path):
    (tmp_path / "models" / "checkpoints").mkdir(parents=True)
    tiny_checkpoint(tmp_path / "models" / "checkpoints" / "tiny-xl.safetensors", "sdxl")
    write_extension(tmp_path / "extensions", "buttons", BUTTONS)
    approve_all(tmp_path / "extensions", Approvals(tmp_path / "extensions.json"))
    with serving(tmp_path, REAL) as site:
        here = visit(site)
        here.page.locator("#txt2img_panel_buttons .panel-title").click()
        yield here, here.page.locator("#txt2img_panel_buttons")
        here.page.evaluate("document.activeElement.blur()")


def test_a_button_shows_what_it_gives_and_nothing_enters_the_form_unasked(panel, picture):
    here, box = panel
    here.prompt("txt2img", "a fox")
    box.get_by_role("spinbutton").first.fill("5")
    box.get_by_role("spinbutton").first.blur()
    box.get_by_role("button", name="Preview").click()
    result = box.locator(".action-result")
    result.get_by_text("level 5").wait_for()
    shown = result.locator("img")
    shown.wait_for()
    assert shown.evaluate("image => image.decode().then(() => [image.naturalWidth, image.naturalHeight])") == [40, 30]
    assert "a fox" in result.inner_text()
    assert box.get_by_role("switch").is_checked() is False  # looking switches nothing on

    box.get_by_role("button", name="Fail").click()
    result.get_by_text("The extension buttons failed in its action fail: RuntimeError: bang.").wait_for()

    box.get_by_role("button", name="Rewrite").click()
    proposed = result.locator("textarea")
    proposed.wait_for()
    assert proposed.input_value() == "a fox, at dusk"
    assert here.value("txt2img_prompt") == "a fox"
    proposed.fill("a fox, at dawn")
    result.get_by_role("button", name="Use this").click()
    here.until("document.querySelector('#txt2img_prompt textarea').value === 'a fox, at dawn'")
    assert box.get_by_role("spinbutton").first.input_value() == "7"
    here.number("txt2img_steps", 2)
    sent = here.generate("txt2img")["request"]
    assert sent["prompt"] == "a fox, at dawn"
    assert sent["extensions"]["buttons"]["values"] == {"level": 7, "words": "a fox"}

    here.tab("img2img")
    here.page.locator("#img2img_panel_buttons .panel-title").click()
    here.page.locator("#tab_img2img input[type=file]").first.set_input_files(picture(96, 64))
    here.page.locator("#tab_img2img .picture-holder img.source").wait_for()
    here.prompt("img2img", "a hen")
    other = here.page.locator("#img2img_panel_buttons")
    other.get_by_role("button", name="Preview").click()
    other.locator(".action-result").get_by_text("a hen").wait_for()


def test_one_that_hangs_offers_to_restart_the_engine_and_works_again_after_it(panel):
    here, box = panel
    result = box.locator(".action-result")
    box.get_by_role("button", name="Forever").click()
    result.get_by_text("gave no answer within 0.5 seconds").wait_for()
    box.get_by_role("button", name="Preview").click()
    result.get_by_text("has not returned yet").wait_for()
    result.get_by_role("button", name="Restart the engine").click()
    result.get_by_text("The engine is started anew now.").wait_for()
    here.until("() => easel.state.engine.state !== 'ready'")
    here.until("() => easel.state.engine.state === 'ready'")
    box.get_by_role("button", name="Preview").click()
    result.get_by_text("level 2").wait_for()
    assert result.get_by_role("button").count() == 0
