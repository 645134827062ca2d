"""Refiner, skip layers and image CFG on the page: shown where a checkpoint reads them, sent as they stand."""

from __future__ import annotations

import pytest

from tests.browser.conftest import FAKE, serving
from tests.formats.files import published, write_sparse

pytestmark = [pytest.mark.browser, pytest.mark.server]


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shelf")
    checkpoints = folder / "models" / "checkpoints"
    checkpoints.mkdir(parents=True)
    base = published("sdxl_base")
    write_sparse(checkpoints / "a-xl.safetensors", base)
    write_sparse(checkpoints / "b-sd3.safetensors", published("sd3_medium_incl_clips_t5xxl"))
    write_sparse(checkpoints / "z-refiner.safetensors", published("sdxl_refiner"))
    first = "model.diffusion_model.input_blocks.0.0.weight"
    write_sparse(checkpoints / "edit.safetensors", base | {first: ("F16", [320, 8, 3, 3])})
    with serving(folder, FAKE) as running:
        yield running


def test_a_refiner_is_chosen_and_sent(shelf, visit):
    here = visit(shelf)
    here.choose_checkpoint("a-xl")
    here.page.locator("#txt2img_refiner_part button").first.click()
    here.choose("txt2img_refiner", "z-refiner")
    here.until("easel.form.tabs.txt2img.refiner === 'z-refiner'")
    here.prompt("txt2img", "a fox")
    request = here.generate("txt2img")["request"]
    assert (request["refiner"], request["refiner_switch"], request["aesthetic_score"]) == ("z-refiner", 0.8, 6.0)
    here.page.reload()
    here.until("window.easel && easel.isRestored")
    here.until("easel.form.tabs.txt2img.refiner === 'z-refiner'")
    here.page.locator("#txt2img_refiner_part button").first.click()
    here.choose("txt2img_refiner", "None")
    here.until("easel.form.tabs.txt2img.refiner === ''")


def test_one_click_offers_what_sd35_medium_was_published_with(shelf, visit):
    here = visit(shelf)
    here.choose_checkpoint("a-xl")
    group = here.page.locator("#txt2img_field_groups #txt2img_panel_skip_layers")  # no extension takes it in here
    group.wait_for(state="detached")
    here.choose_checkpoint("b-sd3")
    group.get_by_role("button", name="Skip-layer guidance", exact=True).click()
    here.until("easel.form.tabs.txt2img.skip_layer_scale === 0")
    group.get_by_role("button", name="As published for SD3.5 Medium").click()
    here.until("easel.form.tabs.txt2img.skip_layer_scale === 2.5")
    assert group.get_by_role("switch").is_checked()
    here.prompt("txt2img", "a fox")
    request = here.generate("txt2img")["request"]
    names = ("skip_layers", "skip_layer_scale", "skip_layer_start", "skip_layer_end")
    assert [request[name] for name in names] == ["7, 8, 9", 2.5, 0.01, 0.2]


def test_image_cfg_scale_shows_for_models_that_change_pictures_alone(shelf, visit):
    here = visit(shelf)
    here.choose_checkpoint("a-xl")
    here.page.locator("#tabs button[role=tab]", has_text="img2img").first.click()
    here.page.locator("#img2img_denoising_strength").wait_for()
    here.page.locator("#img2img_image_cfg_scale").wait_for(state="hidden")
    here.choose_checkpoint("edit")
    here.page.locator("#img2img_image_cfg_scale").wait_for()
