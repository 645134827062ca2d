"""The way of the issue: prompt to picture, inpaint with the mouse, read the parameters back, the other family."""

from __future__ import annotations

import io

import httpx
import pytest
from PIL import Image, ImageChops

from tests.browser.waiting import until

pytestmark = [pytest.mark.browser, pytest.mark.server]


def picture_of(site, image) -> Image.Image:
    data = httpx.get(site.origin + image["url"], trust_env=False).content
    return Image.open(io.BytesIO(data)).convert("RGB")


def test_prompt_to_picture_to_inpaint_to_parameters_to_the_other_family(real_site, visit, tmp_path):
    here = visit(real_site)
    page = here.page
    here.choose_checkpoint("tiny-xl")
    until(page, "document.body.dataset.family === 'sdxl'")
    here.prompt("txt2img", "a fox, in (snow:1.2)")
    here.number("txt2img_steps", 4)
    first = here.generate("txt2img")
    image = first["images"][0]
    assert first["request"]["checkpoint"] == "tiny-xl"
    assert first["request"]["steps"] == 4
    page.locator(".results .picture").wait_for()
    assert "a fox, in (snow:1.2)" in page.locator(".results .parameters").inner_text()

    page.get_by_role("button", name="Send to inpaint").click()
    frame = page.locator("#inpaint_mask .paintable")
    frame.wait_for()
    until(page, "easel.pictures.inpaint && easel.pictures.inpaint.mask")
    assert here.value("inpaint_prompt") == "a fox, in (snow:1.2)"
    page.get_by_label("Brush size").fill("12")
    here.stroke(frame, [(0.3, 0.3), (0.6, 0.5)])
    here.prompt("inpaint", "a green heart")
    here.number("inpaint_seed", 11)
    second = here.generate("inpaint")
    assert second["request"]["mask"]
    assert second["tab"] == "inpaint"
    before, after = picture_of(real_site, image), picture_of(real_site, second["images"][0])
    changed = ImageChops.difference(before, after).getbbox()
    assert changed is not None, "the painted part is made anew"
    assert changed != (0, 0, *before.size), "what was not painted stays"

    saved = tmp_path / "inpainted.png"
    saved.write_bytes(httpx.get(real_site.origin + second["images"][0]["url"], trust_env=False).content)
    here.tab("PNG info")
    page.locator("#png_info_part input[type=file]").set_input_files(saved)
    page.locator("#png_info_part .parameters").filter(has_text="a green heart").wait_for()
    page.get_by_role("button", name="Send to txt2img").click()
    until(page, "document.querySelector('#txt2img_prompt textarea').value === 'a green heart'")
    until(page, "document.querySelector('#txt2img_seed input').value === '11'")

    here.choose_checkpoint("tiny-sd3")
    until(page, "document.body.dataset.family === 'sd3'")
    page.locator("#txt2img_shift input[type=number]").wait_for()
    until(page, "easel.form.tabs.txt2img.shift > 1")
    third = here.generate("txt2img")
    assert third["request"]["checkpoint"] == "tiny-sd3"
    assert third["request"]["prompt"] == "a green heart"
    assert third["request"]["shift"] > 1
