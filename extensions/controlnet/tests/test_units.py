"""Units at work on tiny checkpoints of both families: laws, what each control does, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from backend.errors import BadRequest, ModelUnsupported, NotFound
from backend.records.metadata import read_picture
from backend.records.outputs import Outputs
from backend.request import GenerationRequest
from tests.engine.conftest import SIZE, ask, encoded, mask_bytes, picture_bytes

NETWORKS = {
    "tiny-xl": ("edges-xl", "edges-xl-diffusers", "control-lora", "union", "promax", "t2i"),
    "tiny-sd3": ("joint", "canny-8b", "canny-2b"),
    "tiny-sd1": ("edges-sd1", "t2i-sd1"),
}
EVERY = [(checkpoint, network) for checkpoint, networks in NETWORKS.items() for network in networks]
FIRST = [("tiny-xl", "edges-xl"), ("tiny-sd3", "joint")]


def unit(network: str, picture: str, /, **values: object) -> dict[str, object]:
    return {"values": {"network": network, "picture": picture, "preprocessor": "canny"} | values}


def guided(
    checkpoint: str, network: str, picture: str, /, *, fields: dict | None = None, **values: object
) -> GenerationRequest:
    return ask(checkpoint, extensions={"controlnet": unit(network, picture, **values)}, **(fields or {}))


def pixels(engine, request: GenerationRequest) -> np.ndarray:
    return np.stack([np.asarray(p.image, dtype=np.int16) for p in engine.generate(request).pictures])


@pytest.mark.parametrize(("checkpoint", "network"), EVERY)
def test_every_kind_of_network_guides_and_leaves_nothing_behind(engine, picture, checkpoint, network):
    plain = pixels(engine, ask(checkpoint))
    one = pixels(engine, guided(checkpoint, network, picture, weight=0.5))
    assert (one != plain).any()
    assert np.array_equal(pixels(engine, guided(checkpoint, network, picture, weight=0.5)), one)
    assert (pixels(engine, guided(checkpoint, network, picture, weight=0.5, preprocessor="scribble")) != one).any()
    assert np.array_equal(pixels(engine, ask(checkpoint)), plain)


@pytest.mark.parametrize(("checkpoint", "network"), EVERY)
def test_a_batch_equals_singles_and_two_passes(engine, picture, checkpoint, network):
    batch = pixels(engine, guided(checkpoint, network, picture, weight=0.5, fields={"batch_size": 2}))
    single = pixels(engine, guided(checkpoint, network, picture, weight=0.5))
    assert np.abs(batch[:1] - single).max() <= 1


@pytest.mark.parametrize(("checkpoint", "network"), FIRST)
def test_weight_0_and_an_empty_region_leave_every_bit(engine, picture, checkpoint, network):
    plain = pixels(engine, ask(checkpoint))
    assert np.array_equal(pixels(engine, guided(checkpoint, network, picture, weight=0.0)), plain)
    empty = engine.inputs.store(encoded(Image.new("L", (SIZE, SIZE)))).sha256
    assert np.array_equal(pixels(engine, guided(checkpoint, network, picture, region=empty)), plain)
    whole = engine.inputs.store(encoded(Image.new("L", (SIZE, SIZE), 255))).sha256
    everywhere = pixels(engine, guided(checkpoint, network, picture))
    assert np.array_equal(pixels(engine, guided(checkpoint, network, picture, region=whole)), everywhere)
    half = engine.inputs.store(mask_bytes((0, 0, SIZE // 2, SIZE))).sha256
    somewhere = pixels(engine, guided(checkpoint, network, picture, region=half))
    assert (somewhere != plain).any()
    assert (somewhere != everywhere).any()


@pytest.mark.parametrize(("checkpoint", "network"), FIRST)
def test_a_unit_acts_from_its_start_to_its_end(engine, picture, checkpoint, network):
    """Of four steps: a window of the last one changes less than all, an early end differs from a late start."""
    steps = {"fields": {"steps": 4}}
    whole = pixels(engine, guided(checkpoint, network, picture, **steps))
    late = pixels(engine, guided(checkpoint, network, picture, start=0.75, **steps))
    early = pixels(engine, guided(checkpoint, network, picture, end=0.25, **steps))
    plain = pixels(engine, ask(checkpoint, steps=4))
    assert len({array.tobytes() for array in (whole, late, early, plain)}) == 4
    past = engine.generate(guided(checkpoint, network, picture, start=0.8, **steps))  # no step begins there
    assert np.array_equal(np.asarray(past.pictures[0].image), plain[0])
    assert any("falls on none of the 4 steps" in note for note in past.notes)


@pytest.mark.parametrize(("checkpoint", "network"), FIRST)
def test_two_units_add_up(engine, picture, checkpoint, network):
    """Twice a half is the whole, to rounding."""
    whole = pixels(engine, guided(checkpoint, network, picture, weight=1.0))
    halves = {name: unit(network, picture, weight=0.5) for name in ("controlnet", "controlnet_2")}
    assert np.abs(pixels(engine, ask(checkpoint, extensions=halves)) - whole).max() <= 1
    three = halves | {"controlnet_3": unit(network, picture, weight=0.5, preprocessor="soft_edge")}
    assert (pixels(engine, ask(checkpoint, extensions=three)) != whole).any()


@pytest.mark.parametrize(("checkpoint", "network"), [*FIRST, ("tiny-xl", "t2i"), ("tiny-sd3", "canny-8b")])
def test_control_modes_differ_and_without_cfg_the_two_that_fade_are_one(engine, picture, checkpoint, network):
    modes = ("balanced", "prompt is more important", "control is more important")
    shown = [pixels(engine, guided(checkpoint, network, picture, mode=mode)) for mode in modes]
    assert len({array.tobytes() for array in shown}) == 3
    without = {"fields": {"cfg_scale": 1.0}}
    _, prompt, control = (pixels(engine, guided(checkpoint, network, picture, mode=mode, **without)) for mode in modes)
    assert np.array_equal(prompt, control)


def test_guidance_in_two_passes_is_guidance_in_one(engine, picture):
    """AND-joined prompts and a negative prompt of another length: calls of their own."""
    fields = {"prompt": "a fox AND a hat:0.5", "negative_prompt": "a " * 90}
    together = pixels(engine, guided("tiny-xl", "edges-xl", picture, fields=fields))
    engine.settings, before = engine.settings.model_copy(update={"guidance_batching": "two passes"}), engine.settings
    try:
        apart = pixels(engine, guided("tiny-xl", "edges-xl", picture, fields=fields))
    finally:
        engine.settings = before
    assert np.abs(together - apart).max() <= 1


@pytest.mark.parametrize(("checkpoint", "network"), FIRST)
def test_without_a_picture_of_its_own_a_unit_takes_the_init_image(engine, picture, checkpoint, network):
    init = {"init_image": picture, "denoise": 0.8}
    assert np.array_equal(
        pixels(engine, guided(checkpoint, network, "", fields=init)),
        pixels(engine, guided(checkpoint, network, picture, fields=init)),
    )
    with pytest.raises(BadRequest, match="ControlNet has no picture, and the job starts from none"):
        engine.generate(guided(checkpoint, network, ""))


def test_only_the_masked_area_is_cut_out_of_a_units_own_picture_too(engine, picture):
    """A unit with the same picture of its own sees what one without sees, up to resampling."""
    big = engine.inputs.store(picture_bytes(4 * SIZE, 4 * SIZE)).sha256
    mask = engine.inputs.store(mask_bytes((SIZE, SIZE, 2 * SIZE, 2 * SIZE), 4 * SIZE, 4 * SIZE)).sha256
    fields = {"init_image": big, "mask": mask, "inpaint_area": "only masked", "mask_blur": 0, "masked_padding": 0}
    shown = [
        pixels(engine, guided("tiny-xl", "edges-xl", own, fields=fields, preprocessor="none")) for own in ("", big)
    ]
    assert np.abs(shown[0] - shown[1]).max() <= 2
    other = engine.inputs.store(picture_bytes(4 * SIZE, 4 * SIZE, seed=9)).sha256
    assert (pixels(engine, guided("tiny-xl", "edges-xl", other, fields=fields, preprocessor="none")) != shown[0]).any()


@pytest.mark.parametrize(("checkpoint", "network"), [("tiny-xl", "promax"), ("tiny-sd3", "inpaint")])
def test_networks_that_repaint_read_the_jobs_mask(engine, picture, checkpoint, network):
    boxes = ((0, 0, SIZE // 2, SIZE), (0, 0, SIZE, SIZE // 2))
    masks = [engine.inputs.store(mask_bytes(box)).sha256 for box in boxes]
    plain = [pixels(engine, ask(checkpoint, init_image=picture, mask=mask)) for mask in masks]
    for mask, before in zip(masks, plain, strict=True):
        fields = {"init_image": picture, "mask": mask}
        shown = pixels(engine, guided(checkpoint, network, "", fields=fields, preprocessor="inpaint", weight=0.5))
        assert (shown != before).any()
    with pytest.raises(BadRequest, match="Inpaint needs a mask"):
        engine.generate(guided(checkpoint, network, picture, preprocessor="inpaint"))


def test_a_union_network_is_told_by_the_preprocessor_or_the_unit(engine, picture):
    by_preprocessor = pixels(engine, guided("tiny-xl", "union", picture))
    by_hand = pixels(engine, guided("tiny-xl", "union", picture, shows="lines"))
    assert np.array_equal(by_preprocessor, by_hand)
    assert (pixels(engine, guided("tiny-xl", "union", picture, shows="depth")) != by_hand).any()
    with pytest.raises(BadRequest, match="union is a ControlNet Union and is not told what its hint shows"):
        engine.generate(guided("tiny-xl", "union", picture, preprocessor="none"))
    with pytest.raises(BadRequest, match="does not know a hint of tile"):
        engine.generate(guided("tiny-xl", "union", picture, preprocessor="tile"))
    assert engine.generate(guided("tiny-xl", "promax", picture, preprocessor="tile")).pictures


@pytest.mark.parametrize(
    ("values", "error", "said"),
    [
        ({"network": ""}, BadRequest, "ControlNet has no network"),
        ({"network": "egdes-xl"}, NotFound, "edges-xl"),
        ({"network": "joint"}, ModelUnsupported, "joint"),
        ({"start": 0.5, "end": 0.5}, BadRequest, "From .* must lie before To"),
        ({"preprocessor": "cany"}, BadRequest, "canny"),
        ({"options": {"lo": 3}}, BadRequest, "Canny: field 'lo'"),
        ({"options": {"low": 300, "high": 200}}, BadRequest, "low threshold 300 is above"),
        ({"picture": "0" * 64}, NotFound, "0000"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(engine, picture, values, error, said):
    with pytest.raises(error, match=f"(?s){said}"):
        engine.generate(guided("tiny-xl", "edges-xl", picture, **values))


def test_a_refiner_is_not_guided_and_says_so(engine, picture):
    refined = {"fields": {"refiner": "tiny-refiner", "refiner_switch": 0.5, "steps": 4}}
    made = engine.generate(guided("tiny-xl", "edges-xl", picture, **refined))
    assert any("ControlNet guides the checkpoint, not the refiner" in note for note in made.notes)
    alone = pixels(engine, ask("tiny-xl", **refined["fields"]))
    assert (np.asarray(made.pictures[0].image) != alone[0]).any()


def test_a_resolution_other_than_the_pictures_is_the_preprocessors(engine, picture):
    perfect = pixels(engine, guided("tiny-xl", "edges-xl", picture))
    same = pixels(engine, guided("tiny-xl", "edges-xl", picture, pixel_perfect=False, resolution=SIZE))
    assert np.array_equal(perfect, same)
    finer = pixels(engine, guided("tiny-xl", "edges-xl", picture, pixel_perfect=False, resolution=4 * SIZE))
    assert (finer != perfect).any()


def test_metadata_reads_back(engine, picture, tmp_path):
    request = guided("tiny-xl", "edges-xl", picture, options={"low": 20, "high": 60, "version": 1}, weight=0.75)
    made = engine.generate(request, outputs=Outputs(tmp_path)).pictures[0]
    read = read_picture(made.path.read_bytes(), engine.registry)
    assert read.request is not None
    stored = read.request["extensions"]
    values = stored["controlnet"]["values"]
    assert values["picture"] == picture
    assert (values["network"], values["weight"], values["options"]["low"]) == ("edges-xl", 0.75, 20)
    again = engine.generate(ask("tiny-xl", extensions=stored), outputs=Outputs(tmp_path)).pictures[0]
    assert np.array_equal(np.asarray(Image.open(again.path)), np.asarray(Image.open(made.path)))
