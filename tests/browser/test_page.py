"""What the page promises to hands and eyes, in a real Chromium; the engine only pretends."""

from __future__ import annotations

import httpx
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tests.browser.conftest import FAKE, serving
from tests.formats.files import published, write_sparse

pytestmark = [pytest.mark.browser, pytest.mark.server]

HOSTILE = '<img src=x onerror="alert(1)"><script>alert(2)</script>'


def test_result_and_queue_are_there_again_after_a_reload_and_in_a_second_tab(site, visit):
    here = visit(site)
    here.prompt("txt2img", "a fox")
    job = here.generate("txt2img")
    here.page.reload()
    here.settled()
    here.page.locator(".results .parameters").filter(has_text="a fox").wait_for()
    other = visit(site)
    other.page.locator(f'.results .picture[src="{job["images"][0]["url"]}"]').wait_for()


def test_form_is_remembered_across_a_reload(site, visit):
    here = visit(site)
    here.choose_checkpoint("b-sd3")
    here.until("document.body.dataset.family === 'sd3'")
    here.prompt("txt2img", "a whale")
    here.number("txt2img_steps", 33)
    here.tab("inpaint")
    here.number("inpaint_mask_blur", 9)
    here.until("easel.form.tabs.inpaint.mask_blur === 9")
    here.until("easel.form.tabs.txt2img.steps === 33")
    here.page.reload()
    here.settled()
    assert here.value("sd_model_checkpoint") == "b-sd3"
    here.until("document.body.dataset.family === 'sd3'")
    assert here.value("txt2img_prompt") == "a whale"
    assert here.value("txt2img_steps") == "33"
    here.tab("inpaint")
    assert here.value("inpaint_mask_blur") == "9"


def test_what_a_browser_remembers_is_checked(site, visit):
    here = visit(site)
    here.page.evaluate(
        """() => localStorage.setItem('easel.form', JSON.stringify({shared: {checkpoint: 'gone', vae: 7},
           tabs: {txt2img: {steps: 1e9, cfg_scale: 'x', prompt: 'kept', sampler: 'euler'}, other: 3}}))"""
    )
    here.page.reload()
    here.settled()
    assert here.value("sd_model_checkpoint") in {"a-xl", "b-sd3"}
    assert here.value("txt2img_prompt") == "kept"
    assert here.value("txt2img_steps") != "1000000000"


def test_checkpoint_brings_its_defaults_and_what_was_last_used_with_it(here):
    here.choose_checkpoint("b-sd3")
    here.until("easel.form.tabs.txt2img.shift >= 1")
    here.number("txt2img_steps", 5)
    here.generate("txt2img")
    here.choose_checkpoint("a-xl")
    here.until("document.body.dataset.family === 'sdxl' && easel.form.tabs.txt2img.steps !== 5")
    here.page.locator("#txt2img_shift").wait_for(state="hidden")
    here.choose_checkpoint("b-sd3")
    here.until("easel.form.tabs.txt2img.steps === 5")
    here.page.get_by_role("button", name="Use the checkpoint's defaults").click()
    here.until("easel.form.tabs.txt2img.steps > 5")


def test_generate_and_interrupt_by_keys(here):
    here.tab("txt2img")
    here.prompt("txt2img", "slow")
    here.number("txt2img_steps", 150)
    here.page.locator("#txt2img_prompt textarea").focus()
    here.page.keyboard.press("Control+Enter")
    here.until("easel.runningJob() && easel.runningJob().progress")
    here.page.locator(".results .now-text").filter(has_text="/150").wait_for()
    here.page.keyboard.press("Escape")
    here.until("easel.state.jobs[0].state === 'cancelled'")


def test_waiting_jobs_are_listed_and_can_be_cancelled(here):
    here.number("txt2img_steps", 150)
    here.prompt("txt2img", "slow")
    here.generate("txt2img", state="running")
    here.prompt("txt2img", f"waits {HOSTILE}")
    here.generate("txt2img", state="queued")
    row = here.page.locator(".results .queue li")
    assert HOSTILE in row.inner_text()
    row.get_by_role("button", name="Cancel this job").click()
    here.until("easel.state.jobs[0].state === 'cancelled'")
    here.page.locator(".results .now").get_by_role("button", name="Cancel").click()
    here.until("easel.unfinished().length === 0")


def test_double_click_is_one_job(here, site):
    here.prompt("txt2img", "twice")
    before = len([job for job in site.jobs() if job["prompt"] == "twice"])
    here.page.dblclick("#txt2img_generate")
    here.until("easel.state.jobs[0].prompt === 'twice' && easel.state.jobs[0].state === 'done'")
    assert len([job for job in site.jobs() if job["prompt"] == "twice"]) == before + 1


def test_who_cancels_and_presses_generate_at_once_gets_another_job(here):
    here.number("txt2img_steps", 150)
    here.prompt("txt2img", "slow again")
    first = here.generate("txt2img", state="running")["id"]
    here.page.evaluate("easel.interrupt()")
    here.page.click("#txt2img_generate")  # sooner than the two clicks of a double click may lie apart
    second = here.wait(first, "running")["id"]
    here.page.evaluate("easel.interrupt()")
    here.until("id => easel.state.jobs.find((job) => job.id === id).state === 'cancelled'", second)


def test_failure_shows_what_happened_and_what_to_do(here):
    here.prompt("txt2img", "fail")
    here.generate("txt2img", state="failed")
    trouble = here.page.locator(".results .trouble")
    trouble.filter(has_text="There is too little memory.").filter(has_text="Use a smaller size.").wait_for()
    here.prompt("txt2img", "a fox")
    here.generate("txt2img")
    trouble.wait_for(state="hidden")


def test_bad_form_is_refused_with_a_sentence_and_no_job(here, site):
    count = len(site.jobs())
    here.tab("img2img")
    here.page.click("#img2img_generate")
    here.page.locator(".toast-body").filter(has_text="img2img needs a picture").wait_for()
    here.tab("txt2img")
    here.page.locator("#txt2img_sampling input").fill("eulre")
    here.page.locator("#txt2img_sampling input").blur()
    here.page.click("#txt2img_generate")
    here.page.locator(".toast-body").filter(has_text="Did you mean 'euler'").wait_for()
    here.page.get_by_role("button", name="Use the checkpoint's defaults").click()
    here.until("easel.form.tabs.txt2img.sampler !== 'eulre'")
    assert len(site.jobs()) == count


def test_names_and_metadata_are_text(here):
    here.prompt("txt2img", HOSTILE)
    here.generate("txt2img")
    here.page.locator(".results .parameters").filter(has_text=HOSTILE).wait_for()
    here.page.locator(".results .picture").click()
    here.page.locator(".viewer img").wait_for()
    here.page.keyboard.press("Escape")
    here.page.locator(".viewer").wait_for(state="hidden")
    here.page.locator("#txt2img_sampling input").fill(HOSTILE)
    here.page.locator("#txt2img_sampling input").blur()
    here.page.click("#txt2img_generate")
    here.page.locator(".toast-body").filter(has_text="onerror").wait_for()
    here.page.get_by_role("button", name="Use the checkpoint's defaults").click()
    here.until("!easel.form.tabs.txt2img.sampler.includes('<')")
    assert here.page.locator("img[src='x']").count() == 0


def test_prompt_weights_and_parts_move_by_keys(here):
    area = here.page.locator("#txt2img_prompt textarea")
    area.fill("a red fox, snow")
    area.evaluate("area => area.setSelectionRange(3, 3)")
    for _ in range(2):
        area.press("Control+ArrowUp")
    assert area.input_value() == "a (red:1.2) fox, snow"
    for _ in range(3):
        area.press("Control+ArrowDown")
    assert area.input_value() == "a (red:0.9) fox, snow"
    area.press("Control+ArrowUp")
    assert area.input_value() == "a red fox, snow"
    area.evaluate("area => area.setSelectionRange(13, 13)")
    area.press("Alt+ArrowLeft")
    assert area.input_value() == "snow, a red fox"
    here.until("easel.form.tabs.txt2img.prompt === 'snow, a red fox'")


def test_parameters_in_the_prompt_box_fill_the_form(here):
    here.prompt(
        "txt2img",
        "a fox\nNegative prompt: rain\nSteps: 12, Sampler: Euler a, CFG scale: 3.5, Seed: 99, Size: 512x768, Wibble: 3",
    )
    here.page.locator("#txt2img_paste").click()
    here.until("easel.form.tabs.txt2img.prompt === 'a fox'")
    here.page.locator(".toast-body").filter(has_text="Wibble").wait_for()
    told = here.page.evaluate("easel.form.tabs.txt2img")
    assert {k: told[k] for k in ("negative_prompt", "steps", "sampler", "cfg_scale", "seed", "width", "height")} == {
        "negative_prompt": "rain", "steps": 12, "sampler": "euler_a", "cfg_scale": 3.5, "seed": 99, "width": 512,
        "height": 768,
    }  # fmt: skip


def test_token_counter_counts_as_the_checkpoint_does(here):
    here.choose_checkpoint("b-sd3")
    here.prompt("txt2img", "a fox")
    here.page.locator("#txt2img_prompt .token-counter").filter(has_text="2/75 · T5 ").wait_for()
    here.choose_checkpoint("a-xl")
    here.prompt("txt2img", "a fox in the snow")
    here.page.locator("#txt2img_prompt .token-counter").filter(has_text="5/75").wait_for()


def test_seed_size_and_clear_buttons(here):
    here.number("txt2img_width", 512)
    here.number("txt2img_height", 768)
    here.page.locator("#txt2img_res_switch_btn").click()
    here.until("easel.form.tabs.txt2img.width === 768 && easel.form.tabs.txt2img.height === 512")
    here.prompt("txt2img", "a fox")
    seed = here.generate("txt2img")["images"][0]["seed"]
    here.page.locator("#txt2img_reuse_seed").click()
    here.until("seed => easel.form.tabs.txt2img.seed === seed", arg=seed)
    here.page.locator("#txt2img_random_seed").click()
    here.until("easel.form.tabs.txt2img.seed === -1")
    here.page.locator("#txt2img_clear_prompt").click()
    here.until("easel.form.tabs.txt2img.prompt === ''")


def test_viewer_goes_through_the_pictures_by_keys(here):
    here.number("txt2img_batch_size", 3)
    here.prompt("txt2img", "three")
    job = here.generate("txt2img")
    assert len(job["images"]) == 3
    here.page.locator(".results .thumbs button").nth(2).wait_for()
    here.page.locator(".results .picture").click()
    shown = here.page.locator(".viewer > img")
    first = shown.get_attribute("src")
    here.page.keyboard.press("ArrowLeft")
    assert shown.get_attribute("src") != first
    here.page.keyboard.press("ArrowRight")
    assert shown.get_attribute("src") == first
    here.page.keyboard.press("Escape")
    here.page.locator(".viewer").wait_for(state="hidden")


def test_picture_without_parameters_is_told_so(here, picture):
    here.tab("PNG info")
    here.page.locator("#png_info_part input[type=file]").set_input_files(picture(64, 64))
    here.page.locator("#png_info_part .read-source").filter(has_text="No parameters found").wait_for()


def test_metadata_of_a_strangers_picture_is_text_and_fills_a_tab(here, tmp_path):
    pairs = f"Steps: 9, Sampler: Euler a, CFG scale: 3, Seed: 5, Size: 64x64, Odd{HOSTILE}: 1"
    text = f"{HOSTILE}\nNegative prompt: rain\n{pairs}"
    info = PngInfo()
    info.add_text("parameters", text)
    path = tmp_path / "stranger.png"
    Image.new("RGB", (64, 64)).save(path, pnginfo=info)
    here.tab("PNG info")
    here.page.locator("#png_info_part input[type=file]").set_input_files(path)
    here.page.locator("#png_info_part .parameters").filter(has_text=HOSTILE).wait_for()
    here.page.get_by_role("button", name="Send to txt2img").click()
    here.until("easel.form.tabs.txt2img.steps === 9 && easel.activeTab() === 'txt2img'")
    assert here.value("txt2img_prompt") == HOSTILE
    assert here.page.locator("img[src='x']").count() == 0


def test_models_tab_names_each_file_and_what_is_wrong_with_it(here):
    here.tab("Models")
    here.page.locator(".model").filter(has_text="a-xl").filter(has_text="SDXL").wait_for()
    here.page.locator(".model").filter(has_text="b-sd3").filter(has_text="SD3 Medium").wait_for()
    problem = here.page.locator(".model.bad .model-problem").inner_text()
    assert 10 < len(problem) < 400


NAMELESS = """() => [...document.querySelectorAll('button, input, textarea, select')]
  .filter((e) => e.offsetParent && !e.closest('[aria-hidden=true]'))
  .filter((e) => !(e.getAttribute('aria-label') || e.textContent.trim() || e.title
     || (e.labels && [...e.labels].some((l) => l.textContent.trim()))
     || (e.getAttribute('aria-labelledby') && document.getElementById(e.getAttribute('aria-labelledby')))))
  .map((e) => e.outerHTML.slice(0, 200))"""


def test_nothing_overflows_and_every_control_has_a_name(here):
    for width in (390, 768, 1280):
        here.page.set_viewport_size({"width": width, "height": 844})
        for tab in ("models", "png_info", "inpaint", "img2img", "txt2img"):
            here.page.evaluate("name => easel.showTab(name)", tab)
            here.page.locator(f"#tab_{tab}").wait_for()
            assert here.page.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0, (tab, width)
            assert here.page.evaluate(NAMELESS) == [], (tab, width)


def test_results_follow_generate_on_a_phone(site, visit):
    here = visit(site, viewport={"width": 390, "height": 844})
    generate = here.page.locator("#txt2img_generate").bounding_box()
    results = here.page.locator("#txt2img_results").bounding_box()
    steps = here.page.locator("#txt2img_steps").bounding_box()
    assert generate["y"] < results["y"] < steps["y"]


def test_theme_follows_the_system_and_a_toggle_that_is_remembered(site, visit):
    assert visit(site, color_scheme="dark").page.evaluate("document.body.classList.contains('dark')")
    here = visit(site, color_scheme="light")
    assert not here.page.evaluate("document.body.classList.contains('dark')")
    here.page.get_by_role("button", name="Light or dark").click()
    assert here.page.evaluate("document.body.classList.contains('dark')")
    here.page.reload()
    here.settled()
    assert here.page.evaluate("document.body.classList.contains('dark')")


def test_page_loads_nothing_from_elsewhere_and_is_small(here, site):
    assert here.foreign == []
    html = httpx.get(site.origin, trust_env=False).text
    assert len(html) < 430_000  # 260,000 are gradio's own and what it is told of the components


def test_page_reconnects_when_the_server_comes_back(tmp_path, visit):
    (tmp_path / "models" / "checkpoints").mkdir(parents=True)
    write_sparse(tmp_path / "models" / "checkpoints" / "xl.safetensors", published("sdxl_base"))
    with serving(tmp_path, FAKE) as first:
        here = visit(first)
        here.prompt("txt2img", "a fox")
        job = here.generate("txt2img")
    here.page.locator(".results .away").filter(has_text="Reconnecting").wait_for()
    with serving(tmp_path, FAKE, port=int(first.origin.rsplit(":", 1)[1])):
        here.page.locator(".results .away").wait_for(state="hidden")
        assert here.newest()["id"] == job["id"]
        here.page.reload()
        here.settled()
        here.prompt("txt2img", "a fox again")
        assert here.generate("txt2img")["images"]
