"""Sweeps from a panel's values to pictures and grids, on tiny checkpoints of both families."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from backend.errors import BadRequest, UserError
from backend.records.metadata import read_picture
from backend.records.outputs import Outputs
from backend.request import GenerationRequest, parse_request
from extensions.sweep.grid import Label, draw_grid
from tests.engine.conftest import SIZE, ask


def sweep(**values: object) -> dict[str, object]:
    return {"sweep": {"version": 1, "values": values}}


def made(engine, tmp_path, checkpoint="tiny-xl", values=None, **fields):
    request = ask(checkpoint, extensions=sweep(**(values or {})), **fields)
    return engine.generate(request, outputs=Outputs(tmp_path, registry=engine.registry))


def test_a_grid_shows_every_combination_and_can_be_made_again_from_its_metadata(engine, checkpoint, tmp_path):
    result = made(engine, tmp_path, checkpoint, {"x": "steps: 1-2", "y": "cfg_scale: 2, 4.5"})
    *singles, grid = result.pictures
    told = [read_picture(picture.path).request for picture in singles]
    assert [(each["steps"], each["cfg_scale"]) for each in told] == [(1, 2.0), (1, 4.5), (2, 2.0), (2, 4.5)]
    alone = engine.generate(ask(checkpoint, steps=2, cfg_scale=4.5)).pictures[0].image
    assert np.array_equal(alone, singles[3].image)
    assert grid.image.width > 2 * SIZE and grid.image.height > 2 * SIZE
    page = np.asarray(grid.image)
    for single in singles:  # each is in it, pixel for pixel
        window = np.lib.stride_tricks.sliding_window_view(page, (1, SIZE, 3))[:, :, 0, 0]
        assert (window == np.asarray(single.image)[SIZE // 2]).all((2, 3)).sum() == 1
    again = parse_request(read_picture(grid.path).request)
    assert again.extensions["sweep"]["values"]["y"] == "cfg_scale: 2, 4.5"
    second = engine.generate(again, outputs=Outputs(tmp_path / "again", registry=engine.registry))
    assert np.array_equal(second.pictures[-1].image, grid.image)


def test_z_makes_several_grids_and_a_batch_one_for_each_of_its_pictures(engine, tmp_path):
    result = made(engine, tmp_path, values={"x": "steps: 1,2", "z": "seed: 3,4"}, batch_count=2)
    assert len(result.pictures) == 8 + 4


def test_dropping_the_single_pictures_leaves_the_grid_alone(engine, tmp_path):
    whole = made(engine, tmp_path / "a", values={"x": "steps: 1,2"})
    alone = made(engine, tmp_path / "b", values={"x": "steps: 1,2", "singles": False})
    assert len(alone.pictures) == 1
    assert np.array_equal(whole.pictures[-1].image, alone.pictures[0].image)
    assert len(list((tmp_path / "b").rglob("*.png"))) == 1


def test_the_same_sweep_again_makes_only_what_is_not_there(engine, tmp_path):
    first = made(engine, tmp_path, values={"x": "steps: 1,2"})
    told = []
    request = ask("tiny-xl", extensions=sweep(x="steps: 1,2,3"))
    second = engine.generate(request, told.append, outputs=Outputs(tmp_path, registry=engine.registry))
    assert {event.steps for event in told if event.type == "step"} == {3}
    assert [picture.path for picture in second.pictures[:2]] == [picture.path for picture in first.pictures[:2]]


def test_the_checkpoint_changes_least_often_whichever_axis_it_is(engine, tmp_path):
    values = {"x": "seed: 1,2,3", "y": "checkpoint: tiny-xl, tiny-sd3"}
    result = made(engine, tmp_path, values=values, steps=1)
    told = [read_picture(picture.path).request for picture in result.pictures[:6]]
    assert [each["checkpoint"] for each in told] == ["tiny-xl"] * 3 + ["tiny-sd3"] * 3
    assert [each["seed"] for each in told] == [1, 2, 3] * 2


def test_prompts_panels_samplers_and_tags_vary_by_name(engine, tmp_path):
    values = {"x": "replace: fox, hen", "y": "pag.scale: 0-2 [2]", "z": "Sampling method: Euler a, heun"}
    result = made(engine, tmp_path, values=values)
    told = [read_picture(picture.path).request for picture in result.pictures[:8]]
    assert {(each["prompt"], each["sampler"], each["extensions"]["pag"]["values"]["scale"]) for each in told} == {
        (prompt, sampler, scale)
        for prompt in ("a fox", "a hen")
        for sampler in ("euler_a", "heun")
        for scale in (0.0, 2.0)
    }


@pytest.mark.parametrize(("values", "words"), [
    ({"x": "stps: 1,2"}, "Did you mean 'steps'"),
    ({"x": "sampler: eulr"}, "Did you mean 'Euler'"),
    ({"x": "steps: 1, 500"}, "150"),
    ({"x": "steps: 1.5"}, "no whole number"),
    ({"x": "steps: 10-1 (+2)"}, "never gets to its end"),
    ({"x": "steps:"}, "has no values"),
    ({"x": "seed: 1-100000"}, "more than 1,000"),
    ({"x": "seed: 1-100", "y": "steps: 1-20"}, "2,000 combinations"),
    ({"x": "pag.scal: 1"}, "pag.scale"),
    ({"x": "pag.scale: -5"}, "scale"),
    ({"x": "replace: cat, dog"}, "is in no prompt"),
    ({"x": 'replace: "fox, "'}, "is in no prompt"),
    ({"x": 'replace: "fox'}, "cannot be read"),
    ({"x": "steps: 1", "y": "Sampling steps: 2"}, "Two axes"),
    ({"x": "checkpoint: tiny-xl, tiny-x"}, "tiny-x"),
    ({"x": "steps: 1,2", "grid": False, "singles": False}, "neither"),
])  # fmt: skip
def test_what_cannot_be_swept_is_refused_before_the_first_picture(engine, values, words):
    told = []
    with pytest.raises(UserError, match=words):
        engine.generate(ask("tiny-xl", extensions=sweep(**values)), told.append)
    assert told == []


def test_contradicting_cells_are_refused(engine):
    with pytest.raises(BadRequest, match="guidance_start"):
        values = {"x": "guidance_start: 0, 0.6", "y": "guidance_end: 0.5, 1"}
        engine.generate(ask("tiny-xl", extensions=sweep(**values)))


def test_variations_of_a_cell_start_from_one_drawn_seed(engine):
    request = ask("tiny-xl", variation_strength=0.3, extensions=sweep(x="steps: 1,2"))
    one, other = (engine.generate(request).pictures for _ in range(2))
    assert np.array_equal(one[0].image, other[0].image)


def test_a_large_grid_is_made_of_smaller_pictures_and_says_so():
    told: list[str] = []
    images = [Image.new("RGB", (2048, 1024), (n, 0, 0)) for n in range(20)]
    columns = [Label("Seed", str(n)) for n in range(20)]
    sheet = draw_grid(images, {(0, n): n for n in range(20)}, columns, [Label("", "")], Label("", ""), told.append)
    assert max(sheet.size) < 16_383
    assert "of their size" in told[0]


def test_long_labels_wrap_and_end_with_dots():
    image = Image.new("RGB", (64, 64))
    words = "x" * 20_000
    sheet = draw_grid(
        [image], {(0, 0): 0}, [Label("Prompt", words)], [Label("Prompt", words)], Label(words, words), print
    )
    assert sheet.width < 400 and sheet.height < 600


def test_a_panel_without_an_axis_makes_the_picture_and_says_so(engine, tmp_path):
    result = made(engine, tmp_path)
    assert len(result.pictures) == 1
    assert any("nothing was varied" in note for note in result.notes)
    assert result.request == GenerationRequest(**{**result.request.__dict__, "extensions": {}})


def test_words_beside_small_cells_are_whole():
    images = [Image.new("RGB", (128, 128))]
    columns = [Label("", "")]

    def left(value: str) -> int:
        rows = [Label("Fill in", value)]
        return draw_grid(images, {(0, 0): 0}, columns, rows, Label("", ""), lambda text: None).width - 128

    assert left("all combinations") == left("combinations") > 64
    assert left("m" * 200) <= 128 + 16
