"""What follows from the checkpoint beside its fields: few-step presets, and who speaks for the prediction."""

from __future__ import annotations

import pytest

from backend.formats.presets import PRESETS
from tests.formats.files import published, write_sparse

pytestmark = [pytest.mark.browser, pytest.mark.server]


def test_a_preset_fills_the_form_and_leaves_the_rest(site, visit):
    here = visit(site)
    here.choose_checkpoint("a-xl")
    width = here.value("txt2img_width")
    here.choose("txt2img_preset", "Lightning, 4 steps")
    here.until(
        "(({steps, cfg_scale, sampler, schedule}) => steps === 4 && cfg_scale === 1 && sampler === 'euler'"
        " && schedule === 'sgm_uniform')(easel.form.tabs.txt2img)"
    )
    assert here.value("txt2img_width") == width
    assert here.value("txt2img_preset") == "Choose"
    here.prompt("txt2img", "a fox")
    request = here.generate("txt2img")["request"]
    assert (request["steps"], request["cfg_scale"], request["sampler"], request["schedule"]) == (
        4, 1.0, "euler", "sgm_uniform",
    )  # fmt: skip
    assert (request["prediction"], request["zero_terminal_snr"]) == (None, None)


def test_only_presets_for_the_checkpoints_family_are_offered(site, visit):
    here = visit(site)
    for checkpoint, wanted in (
        ("b-sd3", ["SD3.5 Turbo, 4 steps"]),
        ("a-xl", [preset.label for preset in PRESETS if "sdxl" in preset.families]),
    ):
        here.choose_checkpoint(checkpoint)
        here.page.locator("#txt2img_preset input").click()
        here.page.get_by_role("option", name=wanted[-1]).wait_for()
        names = [each.strip("✓ \n") for each in here.page.get_by_role("option").all_inner_texts()]
        assert names == ["Choose", *wanted]
        here.page.keyboard.press("Escape")
    here.page.reload()
    here.settled()
    here.page.locator("#txt2img_preset input").click()
    here.page.get_by_role("option", name="Lightning, 4 steps").wait_for()


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


def test_who_speaks_for_the_prediction_stands_beside_it_and_an_answer_is_taken_back(site, visit):
    checkpoints = site.data_dir / "models" / "checkpoints"
    write_sparse(checkpoints / "c-marked.safetensors", published("sdxl_base") | {"v_pred": ("F32", [0])})
    here = visit(site)
    here.until("easel.models.some((model) => model.name === 'c-marked' && model.read)")
    here.choose_checkpoint("a-xl")
    here.page.locator("#txt2img_settings .advanced button").first.click()
    speaker = here.page.locator("#txt2img_prediction_speaker")
    speaker.get_by_text("Automatic is eps: nothing says otherwise.").wait_for()
    here.choose_checkpoint("c-marked")
    speaker.get_by_text("Automatic is v: key v_pred says so.").wait_for()

    here.page.evaluate("""() => {
        const model = easel.checkpoint(), question = model.questions.find(({ about }) => about === "prediction");
        return easel.answerQuestion(model, question, "v, zero-terminal SNR");
    }""")
    speaker.get_by_text("Automatic is v with zero terminal SNR: you said so.").wait_for()
    here.tab("Models")
    here.page.get_by_label("Search models").fill("c-marked")
    here.page.get_by_text("You said: v, zero-terminal SNR").wait_for()
    here.tab("txt2img")
    speaker.get_by_role("button", name="Take back").click()
    speaker.get_by_text("Automatic is v: key v_pred says so.").wait_for()
    here.choose_checkpoint("b-sd3")
    speaker.wait_for(state="hidden")
    (checkpoints / "c-marked.safetensors").unlink()
    here.until("!easel.models.some((model) => model.name === 'c-marked')")


def test_on_a_phone_the_preset_stays_within_the_page(site, visit):
    here = visit(site, viewport={"width": 390, "height": 844})
    box = here.page.locator("#txt2img_preset").bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 390
    assert here.page.evaluate("document.documentElement.scrollWidth") <= 390
