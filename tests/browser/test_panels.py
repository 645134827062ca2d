"""Extensions' panels in the page: drawn from the registry, sent while they are on, remembered and filled in."""

from __future__ import annotations

import pytest

from backend.records.parameters_text import parameters_text
from backend.records.registry import core_registry
from backend.request import parse_request

pytestmark = [pytest.mark.browser, pytest.mark.server]


@pytest.fixture
def pag(real_site, visit):
    here = visit(real_site)
    here.page.locator("#txt2img_group_guidance").get_by_role("button", name="Guidance", exact=True).click()
    here.page.locator("#txt2img_panel_pag").wait_for()
    here.number("txt2img_steps", 2)
    return here


def scale(here, tab="txt2img"):
    return here.page.locator(f"#{tab}_panel_pag").get_by_role("spinbutton").first


def test_a_panel_is_sent_while_its_switch_is_on_and_survives_a_reload(pag):
    here = pag
    here.prompt("txt2img", "a fox")
    switch = here.page.locator("#txt2img_panel_pag").get_by_role("switch")
    switch.check()
    scale(here).fill("2.5")
    scale(here).blur()
    sent = here.generate("txt2img")["request"]["extensions"]
    assert list(sent) == ["pag"]
    assert sent["pag"]["values"]["scale"] == 2.5

    here.page.reload()
    here.settled()
    here.page.locator("#txt2img_panel_pag.on").wait_for()
    assert scale(here).input_value() == "2.5"
    here.page.get_by_role("button", name="Reset Perturbed-attention guidance").click()
    assert scale(here).input_value() != "2.5"
    switch.uncheck()
    assert here.generate("txt2img")["request"]["extensions"] == {}


def test_a_pictures_parameters_tell_what_its_panels_were_set_to_in_words(pag):
    here = pag
    here.prompt("txt2img", "a fox, Extensions: none")
    here.page.locator("#txt2img_panel_pag").get_by_role("switch").check()
    scale(here).fill("2.5")
    scale(here).blur()
    told = here.generate("txt2img")["images"][0]["parameters"]
    assert ', Extensions: "' in told  # as it is copied and saved
    here.page.locator("#txt2img_results pre.parameters").filter(has_text="Perturbed-attention guidance").wait_for()
    shown = here.page.locator("#txt2img_results pre.parameters").inner_text()
    assert shown.startswith("a fox, Extensions: none\n")
    assert shown.endswith("\nPerturbed-attention guidance: Scale: 2.5")
    escaped = 'a\\u002c\nSteps: 2, ControlNet 0: "Module: canny\\u002c Weight: 1.0"'
    plain = 'a\\u002c\nSteps: 2, ControlNet 0: "Module: canny, Weight: 1.0"'
    assert here.page.evaluate("text => easel.shownParameters(text)", escaped) == plain
    strange = 'a\nSteps: 2, Extensions: "{", Size: 8x8'
    assert here.page.evaluate("text => easel.shownParameters(text)", strange) == strange


def test_parameters_switch_panels_on_and_off_also_in_a_tab_that_was_never_open(pag):
    here = pag
    stored = {"pag": {"version": 1, "values": {"scale": 1.5}}}
    request = parse_request({"prompt": "a fox", "steps": 2, "seed": 4, "width": 64, "height": 64, "extensions": stored})
    text = parameters_text(request, {}, core_registry())
    here.page.evaluate("text => easel.send('apply', {tab: 'txt2img', text})", text)
    here.page.locator("#txt2img_panel_pag.on").wait_for()
    assert scale(here).input_value() == "1.5"
    here.page.evaluate("text => easel.send('apply', {tab: 'img2img', text})", text)
    here.until("((easel.store.read('panels').img2img || {}).pag || {}).on")
    here.tab("img2img")
    here.page.locator("#img2img_panel_pag.on").wait_for()
    here.tab("txt2img")
    here.page.evaluate("easel.send('apply', {tab: 'txt2img', text: 'a hen\\nSteps: 2, Seed: 4, Size: 64x64'})")
    here.page.locator("#txt2img_panel_pag:not(.on)").wait_for()
    here.page.evaluate("text => easel.send('apply', {tab: 'txt2img', text})", text)  # the same again
    here.page.locator("#txt2img_panel_pag.on").wait_for()


def test_settings_of_an_older_version_are_sent_as_they_were_until_one_is_changed(pag):
    here = pag
    here.prompt("txt2img", "a fox")
    here.page.evaluate("easel.registry.panels.find((panel) => panel.name === 'pag').version = 2")
    stored = {"pag": {"version": 1, "values": {"scale": 1.5}}}
    here.page.evaluate("stored => easel.panelsTold([JSON.stringify(stored), '', ''])", stored)
    here.page.locator("#txt2img_panel_pag.on").wait_for()
    sent = "easel.extensionValues('txt2img', 'euler').pag"
    assert here.page.evaluate(sent) == stored["pag"]
    scale(here).fill("2.5")
    scale(here).blur()
    changed = here.page.evaluate(sent)
    assert (changed["version"], changed["values"]["scale"]) == (2, 2.5)


def test_a_samplers_own_parameters_show_and_are_sent_while_it_is_chosen(pag):
    here = pag
    here.prompt("txt2img", "a fox")
    own = here.page.locator("#txt2img_sampler_panel .sampler-panel")
    own.wait_for(state="hidden")
    here.choose("txt2img_sampling", "Restart")
    own.wait_for()
    own.get_by_label("Restarts").last.fill("2")
    own.get_by_label("Restarts").last.blur()
    sent = here.generate("txt2img")["request"]
    assert sent["sampler"] == "restart"
    assert sent["extensions"]["restart"]["values"]["restarts"] == 2
    here.choose("txt2img_sampling", "Euler")
    own.wait_for(state="hidden")
    assert here.generate("txt2img")["request"]["extensions"] == {}


def test_what_is_chosen_in_a_panel_brings_its_own_fields_and_a_second_unit_follows_the_first(real_site, visit):
    here = visit(real_site)
    first, second = (here.page.locator(f"#txt2img_panel_{name}") for name in ("controlnet", "controlnet_2"))
    first.wait_for()
    assert second.is_hidden()
    first.get_by_role("switch").check()
    second.wait_for()

    named = first.get_by_label("Preprocessor", exact=True)
    named.select_option(label="Canny")
    low = first.locator(".panel-options").get_by_label("Low threshold").last
    low.wait_for()
    first.locator(".panel-options").get_by_role("spinbutton").first.fill("40")
    first.locator(".panel-options").get_by_role("spinbutton").first.blur()
    stored = "easel.store.read('panels').txt2img.controlnet.values"
    assert here.page.evaluate(stored)["options"] == {"low": 40, "version": 1}
    here.page.reload()
    here.settled()
    first.locator(".panel-options").get_by_role("spinbutton").first.wait_for()
    assert first.locator(".panel-options").get_by_role("spinbutton").first.input_value() == "40"

    named.select_option(label="Blur")  # another one's settings are its own
    first.locator(".panel-options").get_by_label("Blur").first.wait_for()
    assert here.page.evaluate(stored)["options"] == {}
    assert first.get_by_label("Control mode").is_hidden()
    first.get_by_text("More", exact=True).click()
    first.get_by_label("Control mode").wait_for()
    first.get_by_role("switch").uncheck()
    second.wait_for(state="hidden")


def test_expand_shows_a_longer_prompt_and_both_texts_go_with_the_picture(pag):
    here = pag
    here.prompt("txt2img", "a fox")
    panel = here.page.locator("#txt2img_panel_prompt_expand")
    panel.locator(".panel-title").click()
    panel.get_by_role("button", name="Expand", exact=True).click()
    proposed = panel.locator(".action-result textarea")
    proposed.wait_for()
    expanded = proposed.input_value()
    assert expanded.startswith(("a fox, ", "a fox. "))  # as the checkpoint reads it
    assert here.value("txt2img_prompt") == "a fox"
    panel.get_by_role("button", name="Use this").click()
    here.until("words => document.querySelector('#txt2img_prompt textarea').value === words", arg=expanded)
    sent = here.generate("txt2img")["request"]
    assert sent["prompt"] == expanded
    values = sent["extensions"]["prompt_expand"]["values"]
    assert (values["original"], values["expanded"]) == ("a fox", expanded)


def test_a_panel_explains_its_fields_and_the_results_stay_in_sight_beside_it(pag):
    here = pag
    panel = here.page.locator("#txt2img_panel_pag")
    panel.locator(".panel-title").click()
    words = panel.locator(".field-help").first
    assert words.is_hidden()
    explain = panel.get_by_role("button", name="Explain Perturbed-attention guidance")
    explain.focus()
    here.page.keyboard.press("Enter")
    words.wait_for()
    assert explain.get_attribute("aria-pressed") == "true"
    assert panel.get_by_role("spinbutton").first.get_attribute("aria-describedby") == words.get_attribute("id")
    panel.evaluate("element => element.scrollIntoView()")
    here.until("document.querySelector('#txt2img_results').getBoundingClientRect().top >= 0 && scrollY > 200")
    assert here.page.locator("#txt2img_results .results").is_visible()


@pytest.mark.parametrize("width", [1280, 390])
def test_skip_layer_guidance_stands_among_the_guidances_and_sets_the_requests_own_fields(real_site, visit, width):
    here = visit(real_site, viewport={"width": width, "height": 900})
    group, told = here.page.locator("#txt2img_group_guidance"), "easel.form.tabs.txt2img.skip_layer_scale"
    entry = group.locator("#txt2img_panel_skip_layers")
    here.choose_checkpoint("tiny-sd3")
    here.number("txt2img_steps", 2)
    here.prompt("txt2img", "a fox")
    group.get_by_role("button", name="Guidance", exact=True).click()
    entry.get_by_role("switch").check()
    here.until(f"{told} === 2.5")
    assert group.locator(".panels-count").inner_text() == "1 on"
    entry.get_by_label("Skip layers", exact=True).fill("0")
    entry.get_by_label("Skip layers to", exact=True).last.fill("0.9")
    entry.get_by_label("Skip layers to", exact=True).last.blur()
    here.until("easel.form.tabs.txt2img.skip_layer_end === 0.9")
    box = entry.bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= width
    request = here.generate("txt2img")["request"]
    names = ("skip_layers", "skip_layer_scale", "skip_layer_end", "extensions")
    assert [request[name] for name in names] == ["0", 2.5, 0.9, {}]

    here.page.reload()
    here.settled()
    here.page.locator("#txt2img_panel_skip_layers.on").wait_for()
    here.page.evaluate("easel.send('apply', {tab: 'txt2img', values: {skip_layer_scale: 1.5}})")
    here.until("document.querySelector('#txt2img_panel_skip_layers input[type=number]').value === '1.5'")
    entry.get_by_role("switch").uncheck()
    here.until(f"{told} === 0")
    here.choose_checkpoint("tiny-xl")
    entry.wait_for(state="detached")


def test_generate_pressed_at_once_sends_what_a_group_of_fields_shows(real_site, visit):
    here = visit(real_site)
    here.choose_checkpoint("tiny-sd3")
    here.page.locator("#txt2img_panel_skip_layers").wait_for(state="attached")
    here.number("txt2img_steps", 2)
    here.page.evaluate("""
        document.querySelector('#txt2img_panel_skip_layers [role=switch]').click();
        document.querySelector('#txt2img_generate').click();
    """)
    here.until("easel.state.jobs.length")
    assert here.newest()["request"]["skip_layer_scale"] == 2.5
