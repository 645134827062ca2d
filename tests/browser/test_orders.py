"""Sweeps and dynamic prompts in the page: axes with names to choose from, a panel that is always there."""

from __future__ import annotations

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.server]


@pytest.fixture
def here(real_site, visit):
    folder = real_site.data_dir / "extension-data" / "dynamic_prompts" / "wildcards"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "animal.txt").write_text("fox\nhen\n")
    page = visit(real_site)
    page.page.locator("#txt2img_panel_sweep").wait_for()
    page.number("txt2img_steps", 2)
    return page


def test_a_sweep_is_set_by_name_and_values_and_makes_a_grid(here):
    here.prompt("txt2img", "a fox")
    panel = here.page.locator("#txt2img_panel_sweep")
    panel.get_by_role("switch").check()
    name = panel.get_by_label("Columns (X)", exact=True)
    name.focus()
    offered = panel.locator("datalist").first.locator("option").evaluate_all("all => all.map(each => each.value)")
    assert {"steps", "sampler", "pag.scale", "replace"} <= set(offered)
    name.fill("steps")
    panel.get_by_label("Values of Columns (X)").fill("1-3 (+2)")
    job = here.generate("txt2img")
    assert job["request"]["extensions"]["sweep"]["values"]["x"] == "steps: 1-3 (+2)"
    assert len(job["images"]) == 3
    here.page.reload()
    here.settled()
    panel.locator("textarea").first.wait_for()
    assert panel.get_by_label("Columns (X)", exact=True).input_value() == "steps"
    assert panel.get_by_label("Values of Columns (X)").input_value() == "1-3 (+2)"


def test_a_value_that_is_not_taken_is_told_when_generate_is_pressed(here):
    here.prompt("txt2img", "a fox")
    panel = here.page.locator("#txt2img_panel_sweep")
    panel.get_by_role("switch").check()
    panel.get_by_label("Columns (X)", exact=True).fill("sampler")
    panel.get_by_label("Values of Columns (X)").fill("euler, eulr")
    here.page.click("#txt2img_generate")
    here.page.get_by_text("Did you mean 'Euler'").first.wait_for()


def test_words_are_filled_in_by_themselves_and_the_template_comes_back(here):
    here.prompt("txt2img", "a __animal__, {red|red}")
    job = here.generate("txt2img")
    assert job["request"]["extensions"] == {}
    text = job["images"][0]["parameters"]
    assert text.split("\n")[0] in ("a fox, red", "a hen, red")
    here.page.evaluate("text => easel.send('apply', {tab: 'txt2img', text})", text)
    panel = here.page.locator("#txt2img_panel_dynamic_prompts")
    kept = "(((easel.store.read('panels') || {}).txt2img || {}).dynamic_prompts || { values: {} }).values.template"
    here.until(f"() => {kept}")  # nothing is kept before the first panel is set
    assert panel.get_by_label("Template", exact=True).input_value() == "a __animal__, {red|red}"
    assert panel.get_by_role("switch").count() == 0
    shown = "wanted => document.querySelector('#txt2img_prompt textarea').value === wanted"
    here.until(shown, arg=text.split("\n")[0])
    if panel.locator(".panel-body").is_hidden():
        panel.get_by_role("button", name="Dynamic prompts", exact=True).click()
    panel.get_by_role("button", name="Wildcards").click()
    panel.get_by_text("__animal__").wait_for()
    panel.get_by_role("button", name="Restore template").click()
    panel.get_by_role("button", name="Use this").click()
    here.until("() => document.querySelector('#txt2img_prompt textarea').value.includes('__animal__')")
    again = here.generate("txt2img")  # with the seed of the picture, which came with its parameters
    assert again["images"][0]["parameters"].split("\n")[0] == text.split("\n")[0]
