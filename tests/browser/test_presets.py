"""A few-step preset fills the form at one click, and the row stays in place on a phone."""

from __future__ import annotations

import pytest

from backend.formats.presets import PRESETS

pytestmark = [pytest.mark.browser, pytest.mark.server]


def test_a_preset_fills_the_form_and_leaves_the_rest(site, visit):
    here = visit(site)
    here.choose_checkpoint("a-xl")
    width = here.value("txt2img_width")
    here.choose("txt2img_preset_sdxl", "Lightning, 4 steps")
    here.until(
        "(({steps, cfg_scale, sampler, schedule}) => steps === 4 && cfg_scale === 1 && sampler === 'euler'"
        " && schedule === 'sgm_uniform')(easel.form.tabs.txt2img)"
    )
    assert here.value("txt2img_width") == width
    assert here.value("txt2img_preset_sdxl") == "Choose ..."
    here.prompt("txt2img", "a fox")
    request = here.generate("txt2img")["request"]
    assert (request["steps"], request["cfg_scale"], request["sampler"], request["schedule"]) == (
        4, 1.0, "euler", "sgm_uniform",
    )  # fmt: skip
    assert (request["prediction"], request["zero_terminal_snr"]) == (None, None)


def test_only_presets_for_the_checkpoints_family_are_offered(site, visit):
    here = visit(site)
    for checkpoint, offered, wanted in (
        ("b-sd3", "sd3", {"SD3.5 Turbo, 4 steps"}),
        ("a-xl", "sdxl", {preset.label for preset in PRESETS if "sdxl" in preset.families}),
    ):
        here.choose_checkpoint(checkpoint)
        here.page.locator("#txt2img_settings .preset:visible").and_(
            here.page.locator(f"#txt2img_preset_{offered}")
        ).locator("input").click()
        names = {each.strip("✓ \n") for each in here.page.get_by_role("option").all_inner_texts()}
        assert names == wanted | {"Choose ..."}
        assert here.page.locator("#txt2img_settings .preset:visible").count() == 1
        here.page.keyboard.press("Escape")


def test_a_prediction_that_is_chosen_is_sent(site, visit):
    here = visit(site)
    here.choose_checkpoint("a-xl")
    here.page.locator("#txt2img_settings .advanced button").first.click()
    here.choose("txt2img_prediction", "v")
    here.choose("txt2img_zero_terminal_snr", "Yes")
    here.until("easel.form.tabs.txt2img.prediction === 'v'")
    here.prompt("txt2img", "a fox")
    request = here.generate("txt2img")["request"]
    assert (request["prediction"], request["zero_terminal_snr"]) == ("v", True)
    # It was said of this checkpoint alone, and is remembered for it.
    here.choose_checkpoint("b-sd3")
    here.until("easel.form.tabs.txt2img.prediction === ''")
    here.choose_checkpoint("a-xl")
    here.until("easel.form.tabs.txt2img.prediction === 'v'")
    here.until("easel.form.tabs.txt2img.zero_terminal_snr === true")


def test_on_a_phone_the_preset_stays_within_the_page(site, visit):
    here = visit(site, viewport={"width": 390, "height": 844})
    box = here.page.locator("#txt2img_preset_sdxl").bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 390
    assert here.page.evaluate("document.documentElement.scrollWidth") <= 390
