"""The mask painter: what is painted is what arrives, at the picture's size, at once, and undone exactly."""

from __future__ import annotations

import io

import httpx
import pytest
from PIL import Image, ImageChops

pytestmark = [pytest.mark.browser, pytest.mark.server]

PAINTER = "easel.pictures.inpaint"


def load(here, path) -> None:
    """Put a picture into the painter; its mask is empty then."""
    here.tab("inpaint")
    here.page.locator("#inpaint_mask input[type=file]").set_input_files(path)
    size = Image.open(path).size
    here.until(
        "([width, height]) => { const p = easel.pictures.inpaint; return p.mask && !p.arriving"
        " && p.mask.width === width && p.mask.height === height && p.mask.isEmpty; }",
        arg=list(size),
    )


def paint(here, *points) -> None:
    here.stroke(here.page.locator("#inpaint_mask .paintable"), list(points))


def pixels(here) -> bytes:
    return here.page.evaluate(f"Array.from({PAINTER}.mask.data, (v) => String.fromCharCode(v)).join('')").encode(
        "latin-1"
    )


def handed_over(here, site) -> Image.Image:
    told = here.page.evaluate(f"{PAINTER}.handOver()")
    data = httpx.get(f"{site.origin}/api/v1/inputs/{told['mask']}", trust_env=False).content
    return Image.open(io.BytesIO(data)).convert("L")


def test_mask_arrives_as_painted_at_the_size_of_the_picture(here, site, picture):
    load(here, picture(640, 480))
    here.page.get_by_label("Brush size").fill("30")
    here.page.get_by_label("Soft edge").fill("50")
    paint(here, (0.25, 0.5), (0.75, 0.5))
    mask = handed_over(here, site)
    assert mask.size == (640, 480)
    assert mask.tobytes() == pixels(here)
    left, top, right, bottom = mask.getbbox()
    assert left == pytest.approx(130, abs=4)
    assert right == pytest.approx(510, abs=4)
    assert (bottom - top) == pytest.approx(60, abs=4)
    assert mask.getpixel((320, 240)) == 255
    edge = {mask.getpixel((320, y)) for y in range(top, 240)}
    assert len(edge) > 10, "a soft edge has grey levels"


def test_undo_redo_eraser_invert_and_clear_are_exact(here, picture):
    load(here, picture(320, 256))
    here.page.get_by_label("Brush size").fill("20")
    paint(here, (0.3, 0.3), (0.6, 0.6))
    one = pixels(here)
    paint(here, (0.6, 0.3), (0.3, 0.6))
    two = pixels(here)
    assert one != two
    button = lambda name: here.page.locator("#inpaint_mask").get_by_role("button", name=name, exact=True)  # noqa: E731
    button("Undo").click()
    assert pixels(here) == one
    button("Redo").click()
    assert pixels(here) == two
    button("Eraser").click()
    paint(here, (0.45, 0.2), (0.45, 0.8))
    erased = pixels(here)
    assert sum(erased) < sum(two)
    button("Invert the mask").click()
    assert pixels(here) == bytes(255 - value for value in erased)
    button("Clear the mask").click()
    assert not any(pixels(here))
    for expected in (bytes(255 - value for value in erased), erased, two, one, bytes(len(one))):
        here.page.locator("#inpaint_mask .paintable").press("Control+z")
        assert pixels(here) == expected
    assert button("Undo").is_disabled()
    button("Brush").click()


def test_new_picture_drops_the_old_mask(here, site, picture):
    load(here, picture(256, 256))
    paint(here, (0.4, 0.4), (0.6, 0.6))
    assert any(pixels(here))
    load(here, picture(256, 256, "other.png"))
    assert not any(pixels(here))
    assert here.page.evaluate(f"{PAINTER}.handOver()")["mask"] == ""
    count = len(site.jobs())
    here.page.click("#inpaint_generate")
    here.page.locator(".toast-body").filter(has_text="Nothing is painted yet").first.wait_for()
    assert len(site.jobs()) == count


def test_zoomed_in_the_brush_paints_where_the_pointer_is(here, picture):
    load(here, picture(400, 400))
    here.page.get_by_label("Brush size").fill("5")
    here.page.locator("#inpaint_mask").get_by_role("button", name="Zoom in").click()
    view = here.page.evaluate(f"{PAINTER}.view")
    box = here.page.locator("#inpaint_mask .paintable").bounding_box()
    paint(here, (0.5, 0.5), (0.5, 0.5))
    x, y = ((box["width"] / 2 - view["x"]) / view["scale"], (box["height"] / 2 - view["y"]) / view["scale"])
    data, width = pixels(here), 400
    painted = [(i % width, i // width) for i, value in enumerate(data) if value]
    assert sum(p[0] for p in painted) / len(painted) == pytest.approx(x, abs=1.5)
    assert sum(p[1] for p in painted) / len(painted) == pytest.approx(y, abs=1.5)


def test_large_mask_is_painted_and_handed_over_within_a_second(here, picture):
    load(here, picture(1024, 1024))
    best = here.page.evaluate(
        """async () => {
          const painter = easel.pictures.inpaint, times = [];
          for (let round = 0; round < 3; round += 1) {  // the best of three: the machine may be busy
            const start = performance.now(), y = 200 + 200 * round;
            painter.mask.begin();
            for (let i = 0; i < 60; i += 1) painter.mask.segment(200 + 9 * i, y, 60, 209 + 9 * i, y, 60, 0.4, false);
            painter.mask.end();
            const told = await painter.handOver();
            if (told.mask.length !== 64) throw new Error("no mask");
            times.push(performance.now() - start);
          }
          return Math.min(...times);
        }"""
    )
    assert best < 1000


def test_second_finger_zooms_and_leaves_no_stroke(here, picture):
    load(here, picture(256, 256))
    before = here.page.evaluate(f"{PAINTER}.view.scale")
    here.page.evaluate(
        """() => {
          const frame = document.querySelector('#inpaint_mask .paintable'), box = frame.getBoundingClientRect();
          frame.setPointerCapture = () => {};
          const touch = (kind, id, x, y) => frame.dispatchEvent(new PointerEvent(kind, {pointerId: id,
            pointerType: 'touch',
            clientX: box.left + x, clientY: box.top + y, button: 0, buttons: 1, bubbles: true, cancelable: true}));
          touch('pointerdown', 1, 100, 100); touch('pointermove', 1, 104, 100);
          touch('pointerdown', 2, 160, 100); touch('pointermove', 2, 240, 100);
          touch('pointerup', 1, 104, 100); touch('pointerup', 2, 240, 100);
          delete frame.setPointerCapture;
        }"""
    )
    assert not any(pixels(here))
    assert here.page.evaluate(f"{PAINTER}.view.scale") > before * 1.3


def test_img2img_takes_a_picture_and_keeps_it(here, site, picture):
    path = picture(200, 120)
    here.tab("img2img")
    here.page.locator("#img2img_image input[type=file]").set_input_files(path)
    here.until("easel.pictures.img2img.stored && !easel.pictures.img2img.arriving")
    here.page.locator("#img2img_image").get_by_role("button", name="Use this size").click()
    here.until("easel.form.tabs.img2img.width === 200")
    here.prompt("img2img", "a fox")
    job = here.generate("img2img")
    assert job["tab"] == "img2img"
    assert job["request"]["denoise"] == 0.75
    kept = httpx.get(f"{site.origin}/api/v1/inputs/{job['request']['init_image']}", trust_env=False).content
    difference = ImageChops.difference(Image.open(io.BytesIO(kept)).convert("RGB"), Image.open(path))
    assert difference.getbbox() is None
