"""LoRAs in some steps, in a part of the picture: what a tag says, and laws of whole pictures on three families."""

from __future__ import annotations

import pytest
import torch

from backend.diffusion.boxes import box_region
from backend.engine.engine import Engine
from backend.errors import BadRequest
from backend.events import Plan, Planned
from backend.records.tags import find_tags
from backend.request import GenerationRequest
from backend.settings import load_settings
from extensions.lora.boxes import read_box
from extensions.lora.hooks import choice_of
from extensions.lora.tests.test_lora import name, pixels
from tests.engine.conftest import ask

__all__ = ["name"]


@pytest.mark.parametrize(("tag", "told"), [
    ("<lora:a:end=0.5>", (1.0, None, 0.0, 0.5)),
    ("<lora:a:0.8:start=0.2:end=0.8>", (0.8, None, 0.2, 0.8)),
    ("<lora:a:0.8:te=0.3:start=0.2>", (0.8, 0.3, 0.2, 1.0)),
    ("<lora:a:0.3:0.8:start=0.2>", (0.8, 0.3, 0.2, 1.0)),
    ("<lora:a:unet=0.4:END=0.5>", (0.4, None, 0.0, 0.5)),
])  # fmt: skip
def test_tag_tells_its_steps_and_leaves_text_encoders_alone_unless_told(tag, told):
    choice = choice_of(find_tags(GenerationRequest(prompt=tag), ["lora"])[0], GenerationRequest())
    assert (choice.denoiser, choice.text, choice.start, choice.end) == told


@pytest.mark.parametrize(("box", "rows"), [
    ("left", [[1, 1, 0.5, 0, 0]] * 2),
    ("Bottom", [[0] * 5, [1] * 5]),
    ("0.1,0,0.3,0.25", [[0.25, 0.25, 0, 0, 0], [0] * 5]),
])  # fmt: skip
def test_region_is_how_much_of_each_cell_lies_in_the_box(box, rows):
    corners = read_box(box)
    assert corners is not None
    torch.testing.assert_close(box_region(corners, 2, 5), torch.tensor(rows, dtype=torch.float32))
    request = GenerationRequest(prompt=f"<lora:a:region={box}>", width=128, height=64)
    region = choice_of(find_tags(request, ["lora"])[0], request).region
    assert region is not None
    assert region.shape == (8, 16)


def test_halves_and_quarters_sum_to_the_whole():
    boxes = [(0, 0, 0.3, 0.6), (0.3, 0, 1, 0.6), (0, 0.6, 1, 1)]
    torch.testing.assert_close(sum(box_region(box, 7, 9) for box in boxes), torch.ones(7, 9))


def test_all_steps_and_all_of_the_picture_are_the_plain_tag(adapted, name):
    checkpoint, tag = f"tiny-{name}", f"a fox<lora:kohya-{name}:te=0:unet=0.8"
    whole = pixels(adapted, checkpoint, f"{tag}>")
    assert (pixels(adapted, checkpoint, f"{tag}:start=0:end=1>") == whole).all()
    assert (pixels(adapted, checkpoint, f"{tag}:region=0,0,1,1>") == whole).all()


def test_a_window_is_the_steps_with_and_without(adapted, name):
    """Of two steps the first with the LoRA is neither all nor none; both windows together are all."""
    checkpoint, tag = f"tiny-{name}", f"<lora:kohya-{name}:te=0:unet=0.8"
    pictures = [pixels(adapted, checkpoint, f"a fox{tail}", steps=4)
                for tail in ("", f"{tag}>", f"{tag}:end=0.5>", f"{tag}:start=0.5>")]  # fmt: skip
    for number, one in enumerate(pictures):
        assert all((one != other).any() for other in pictures[:number])
    both = pixels(adapted, checkpoint, f"a fox{tag}:end=0.5>{tag}:start=0.5>", steps=4)
    assert (both == pictures[1]).all()
    assert (pixels(adapted, checkpoint, steps=4) == pictures[0]).all()


def test_halves_with_the_same_lora_are_the_whole(adapted, name):
    checkpoint, tag = f"tiny-{name}", f"<lora:kohya-{name}:te=0:unet=0.8"
    whole = pixels(adapted, checkpoint, f"a fox{tag}>")
    halves = pixels(adapted, checkpoint, f"a fox{tag}:region=left>{tag}:region=right>")
    assert abs(halves - whole).max() <= 1
    left = pixels(adapted, checkpoint, f"a fox{tag}:region=left>")
    assert (left != whole).any()
    assert (left != pixels(adapted, checkpoint)).any()


def test_low_memory_and_bfloat16_come_back_to_the_plain_picture(lora_models, tmp_path):
    settings = load_settings(data_dir=tmp_path, models_dir=lora_models, device="cpu", dtype="bfloat16", low_memory="on")
    engine, tag = Engine(settings), "<lora:kohya-xl:te=0:unet=0.8"
    plain, whole = pixels(engine, "tiny-xl"), pixels(engine, "tiny-xl", f"a fox{tag}>")
    part = pixels(engine, "tiny-xl", f"a fox{tag}:end=0.5:region=left>")
    assert (part != whole).any()
    assert (part != plain).any()
    assert (pixels(engine, "tiny-xl", f"a fox{tag}:end=0.5>{tag}:start=0.5>") == whole).all()
    assert (pixels(engine, "tiny-xl") == plain).all()


def test_what_a_window_leaves_out_is_told(adapted):
    result = adapted.generate(ask("tiny-xl", prompt="a fox<lora:kohya-xl:end=0.5>"))
    assert any("text encoder part is left out" in note for note in result.notes)
    result = adapted.generate(ask("tiny-xl", prompt="a fox<lora:kohya-xl:te=1:end=0.5>"))
    assert any("acts on whole prompts" in note for note in result.notes)
    result = adapted.generate(ask("tiny-xl", prompt="a fox<lora:kohya-xl:start=0.6>"))
    assert any("acts in none of the 2 steps" in note for note in result.notes)
    with pytest.raises(BadRequest, match=r"acts from 0\.8 to 0\.2 of the steps"):
        adapted.generate(ask("tiny-xl", prompt="a fox<lora:kohya-xl:start=0.8:end=0.2>"))


def test_text_encoders_hear_a_lora_of_two_regions_once(adapted):
    one = pixels(adapted, "tiny-xl", "a fox<lora:kohya-xl:te=1:unet=0>")
    both = "<lora:kohya-xl:te=1:unet=0.001:region=left><lora:kohya-xl:te=1:unet=0.001:region=right>"
    assert abs(pixels(adapted, "tiny-xl", f"a fox{both}") - one).max() <= 2


def test_a_refiners_steps_have_no_lora(adapted):
    fields = {"refiner": "tiny-xl", "refiner_switch": 0.5, "steps": 4}
    plain = pixels(adapted, "tiny-xl", **fields)
    late = pixels(adapted, "tiny-xl", "a fox<lora:kohya-xl:start=0.5>", **fields)
    assert (late == plain).all()


def test_the_plan_counts_the_copies_that_are_kept(adapted, name):
    """One copy of what the LoRA changes for its window; two more for two regions of which each has a second one."""
    checkpoint, tag = f"tiny-{name}", f"<lora:kohya-{name}:te=0:unet=0.8"

    def needs(prompt: str) -> int:
        plans: list[Plan] = []
        adapted.generate(
            ask(checkpoint, prompt=prompt),
            lambda event: plans.append(event.plan) if isinstance(event, Planned) else None,
        )
        return plans[0].needs_bytes

    plain = needs("a fox")
    window = needs(f"a fox{tag}:end=0.5>") - plain
    pixels(adapted, checkpoint, f"a fox{tag}:end=0.5>")
    key = adapted.manager.key(adapted.catalog.checkpoint(checkpoint), "denoiser")
    patched = adapted.manager._residents[key].patched
    assert window == patched.kept_bytes > 0
    assert needs(f"a fox{tag}>") == plain
    other = tag.replace("0.8", "0.4")
    assert needs(f"a fox{tag}:region=left>{other}:region=right>") - plain == 2 * window
