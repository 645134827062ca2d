"""Units at work on tiny checkpoints of both families: laws, what goes together, and what is refused."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from PIL import Image

from backend.errors import BadRequest, ModelUnsupported, NotFound
from backend.events import Planned
from backend.records.metadata import read_parameters, read_picture
from backend.records.outputs import Outputs
from backend.request import GenerationRequest
from tests.engine.conftest import SIZE, ask, encoded, mask_bytes, picture_bytes

EVERY = [("tiny-xl", "xl"), ("tiny-xl", "xl-plus"), ("tiny-xl", "xl-full"), ("tiny-sd1", "sd1"), ("tiny-sd3", "sd3")]
FIRST = [("tiny-xl", "xl"), ("tiny-sd3", "sd3")]


def unit(adapter: str, picture: str, /, **values: object) -> dict[str, object]:
    return {"version": 1, "values": {"adapter": adapter, "picture": picture} | values}


def prompted(
    checkpoint: str, adapter: str, picture: str, /, *, fields: dict | None = None, **values: object
) -> GenerationRequest:
    return ask(checkpoint, extensions={"ip_adapter": unit(adapter, picture, **values)}, **(fields or {}))


def pixels(engine, request: GenerationRequest) -> np.ndarray:
    return np.stack([np.asarray(p.image, dtype=np.int16) for p in engine.generate(request).pictures])


@pytest.mark.parametrize(("checkpoint", "adapter"), EVERY)
def test_every_kind_of_adapter_acts_and_leaves_nothing_behind(engine, picture, checkpoint, adapter):
    plain = pixels(engine, ask(checkpoint))
    one = pixels(engine, prompted(checkpoint, adapter, picture))
    assert (one != plain).any()
    assert np.array_equal(pixels(engine, prompted(checkpoint, adapter, picture)), one)
    other = engine.inputs.store(picture_bytes(SIZE, SIZE, seed=9)).sha256
    assert (pixels(engine, prompted(checkpoint, adapter, other)) != one).any()
    assert np.array_equal(pixels(engine, ask(checkpoint)), plain)


@pytest.mark.parametrize(("checkpoint", "adapter"), FIRST)
def test_weight_0_and_an_empty_region_leave_every_bit(engine, picture, checkpoint, adapter):
    plain = pixels(engine, ask(checkpoint))
    assert np.array_equal(pixels(engine, prompted(checkpoint, adapter, picture, weight=0.0)), plain)
    empty = engine.inputs.store(encoded(Image.new("L", (SIZE, SIZE)))).sha256
    assert np.array_equal(pixels(engine, prompted(checkpoint, adapter, picture, region=empty)), plain)
    whole = engine.inputs.store(encoded(Image.new("L", (SIZE, SIZE), 255))).sha256
    everywhere = pixels(engine, prompted(checkpoint, adapter, picture))
    assert np.array_equal(pixels(engine, prompted(checkpoint, adapter, picture, region=whole)), everywhere)
    half = engine.inputs.store(mask_bytes((0, 0, SIZE // 2, SIZE))).sha256
    somewhere = pixels(engine, prompted(checkpoint, adapter, picture, region=half))
    assert (somewhere != plain).any()
    assert (somewhere != everywhere).any()


@pytest.mark.parametrize(("checkpoint", "adapter"), FIRST)
def test_a_unit_acts_from_its_start_to_its_end(engine, picture, checkpoint, adapter):
    steps = {"fields": {"steps": 4}}
    whole = pixels(engine, prompted(checkpoint, adapter, picture, **steps))
    late = pixels(engine, prompted(checkpoint, adapter, picture, start=0.75, **steps))
    early = pixels(engine, prompted(checkpoint, adapter, picture, end=0.25, **steps))
    plain = pixels(engine, ask(checkpoint, steps=4))
    assert len({array.tobytes() for array in (whole, late, early, plain)}) == 4
    past = pixels(engine, prompted(checkpoint, adapter, picture, start=0.8, **steps))  # no step begins there
    assert np.array_equal(past, plain)


@pytest.mark.parametrize(("checkpoint", "adapter"), FIRST)
def test_two_units_add_up(engine, picture, checkpoint, adapter):
    """Twice a half is the whole, to rounding."""
    whole = pixels(engine, prompted(checkpoint, adapter, picture, weight=0.8))
    halves = {name: unit(adapter, picture, weight=0.4) for name in ("ip_adapter", "ip_adapter_2")}
    assert np.abs(pixels(engine, ask(checkpoint, extensions=halves)) - whole).max() <= 1
    three = halves | {"ip_adapter_3": unit(adapter, picture, weight=0.4)}
    assert (pixels(engine, ask(checkpoint, extensions=three)) != whole).any()


@pytest.mark.parametrize(("checkpoint", "adapter"), FIRST)
def test_a_batch_equals_its_singles_and_two_passes_one(engine, picture, checkpoint, adapter):
    """With AND-joined prompts and a negative prompt of another length, so that calls have other branches."""
    fields = {"prompt": "a fox AND a hat:0.5", "negative_prompt": "a " * 90}
    together = pixels(engine, prompted(checkpoint, adapter, picture, fields=fields))
    batch = pixels(engine, prompted(checkpoint, adapter, picture, fields=fields | {"batch_size": 2}))
    assert np.abs(batch[:1] - together).max() <= 1
    engine.settings, before = engine.settings.model_copy(update={"guidance_batching": "two passes"}), engine.settings
    try:
        apart = pixels(engine, prompted(checkpoint, adapter, picture, fields=fields))
    finally:
        engine.settings = before
    assert np.abs(together - apart).max() <= 1


@pytest.mark.parametrize(("checkpoint", "adapter"), FIRST)
def test_pag_regions_and_an_adapter_in_one_job(engine, picture, checkpoint, adapter):
    """Each of the three changes the picture, the order in a request does not, and nothing is left."""
    panels = {
        "pag": {"version": 1, "values": {"scale": 2.0}},
        "regions": {"version": 1, "values": {"layout": "1,1"}},
        "ip_adapter": unit(adapter, picture),
    }
    plain = pixels(engine, ask(checkpoint))

    def made(*names: str) -> np.ndarray:
        prompt = "a fox BREAK a cat" if "regions" in names else "a fox"
        return pixels(engine, ask(checkpoint, prompt=prompt, extensions={name: panels[name] for name in names}))

    shown = [made("pag", "regions", "ip_adapter"), made("pag", "regions"), made("pag", "ip_adapter"),
             made("regions", "ip_adapter"), made("ip_adapter"), made("regions"), made("pag")]  # fmt: skip
    assert len({array.tobytes() for array in shown}) == len(shown)
    assert np.array_equal(made("ip_adapter", "regions", "pag"), shown[0])
    latent = panels | {"regions": {"version": 1, "values": {"layout": "1,1", "mode": "latent"}}}
    assert (pixels(engine, ask(checkpoint, prompt="a fox BREAK a cat", extensions=latent)) != shown[0]).any()
    assert np.array_equal(pixels(engine, ask(checkpoint)), plain)


def test_an_adapter_in_both_halves_is_that_adapter_everywhere(engine, picture):
    halves = [engine.inputs.store(mask_bytes(box)).sha256 for box in ((0, 0, 32, 64), (32, 0, 64, 64))]
    both = {"ip_adapter": unit("xl", picture, region=halves[0]), "ip_adapter_2": unit("xl", picture, region=halves[1])}
    whole = pixels(engine, prompted("tiny-xl", "xl", picture))
    assert np.abs(pixels(engine, ask("tiny-xl", extensions=both)) - whole).max() <= 1


def test_without_a_picture_of_its_own_a_unit_takes_the_init_image(engine, picture):
    square = engine.inputs.store(picture_bytes(SIZE, SIZE)).sha256
    init = {"init_image": square, "denoise": 0.8}
    assert np.array_equal(
        pixels(engine, prompted("tiny-xl", "xl", "", fields=init)),
        pixels(engine, prompted("tiny-xl", "xl", square, fields=init)),
    )
    with pytest.raises(BadRequest, match="IP-Adapter has no picture, and the job starts from none"):
        engine.generate(prompted("tiny-xl", "xl", ""))


def test_only_the_masked_area_is_cut_out_of_the_region_too(engine, picture):
    """A region that is white in the repainted part alone acts there everywhere."""
    big = engine.inputs.store(picture_bytes(4 * SIZE, 4 * SIZE)).sha256
    box = (SIZE, SIZE, 2 * SIZE, 2 * SIZE)
    mask = engine.inputs.store(mask_bytes(box, 4 * SIZE, 4 * SIZE)).sha256
    fields = {"init_image": big, "mask": mask, "inpaint_area": "only masked", "mask_blur": 0, "masked_padding": 0}
    everywhere = pixels(engine, prompted("tiny-xl", "xl", picture, fields=fields))
    assert np.array_equal(pixels(engine, prompted("tiny-xl", "xl", picture, fields=fields, region=mask)), everywhere)


@pytest.mark.parametrize(
    ("checkpoint", "values", "error", "said"),
    [
        ("tiny-xl", {"adapter": ""}, BadRequest, "IP-Adapter has no adapter"),
        ("tiny-xl", {"adapter": "xl-plsu"}, NotFound, "Did you mean 'xl-plus'"),
        ("tiny-xl", {"adapter": "sd1"}, ModelUnsupported, "IP-Adapter: sd1 is for .* tokens 64 wide for 6 attentions"),
        ("tiny-sd3", {"adapter": "xl"}, ModelUnsupported, "IP-Adapter: xl is for .* tiny-sd3"),
        ("tiny-xl", {"adapter": "face"}, ModelUnsupported, "face is an IP-Adapter FaceID.*recognises faces"),
        ("tiny-xl", {"adapter": "half"}, ModelUnsupported, "half is laid out otherwise.*image_proj.norm.bias"),
        ("tiny-xl", {"adapter": "xl-wide"}, ModelUnsupported, "no vision encoder fits xl-wide.*a vector of 80.*96"),
        ("tiny-xl", {"vision": "tiny-clib"}, NotFound, "Did you mean 'tiny-clip'"),
        ("tiny-xl", {"vision": "tiny-siglip"}, ModelUnsupported, "tiny-siglip gives tokens 192 wide; xl reads"),
        ("tiny-xl", {"start": 0.5, "end": 0.5}, BadRequest, "From .* must lie before To"),
        ("tiny-sd3", {"adapter": "sd3", "weight_type": "style only"}, BadRequest, "For sd3 nobody knows"),
        ("tiny-xl", {"picture": "0" * 64}, NotFound, "0000"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(engine, picture, checkpoint, values, error, said):
    request = ask(checkpoint, extensions={"ip_adapter": {"values": {"adapter": "xl", "picture": picture} | values}})
    with pytest.raises(error, match=f"(?s){said}"):
        engine.generate(request)


def test_a_named_encoder_is_the_one_that_is_found(engine, picture):
    found = pixels(engine, prompted("tiny-xl", "xl", picture))
    assert np.array_equal(pixels(engine, prompted("tiny-xl", "xl", picture, vision="tiny-clip")), found)


def test_files_that_were_read_count_as_memory_and_stay(engine, picture):
    engine.generate(prompted("tiny-xl", "xl", picture))
    before = {key.name for key in engine.manager.residents if key.part == "network"}
    assert {"xl.safetensors", "tiny-clip.safetensors"} <= before


def test_the_plan_counts_the_adapter_and_its_encoder_before_they_are_loaded(engine, picture):
    engine.manager.drop_all()
    own = {"fields": {"prompt": "a plan"}}  # a prompt that no other test has had encoded

    def planned(request):
        events = []
        engine.generate(request, events.append)
        return next(event.plan for event in events if isinstance(event, Planned))

    planned(prompted("tiny-xl", "xl", picture, weight=0.0, **own))  # has the prompt encoded
    without = planned(prompted("tiny-xl", "xl", picture, weight=0.0, **own))
    first = planned(prompted("tiny-xl", "xl", picture, **own))
    networks = {key for key in engine.manager.residents if key.part == "network"}
    assert {str(key) for key in networks} == set(first.loads)
    assert first.needs_bytes - without.needs_bytes == pytest.approx(sum(key.bytes for key in networks), rel=0.02)
    again = planned(prompted("tiny-xl", "xl", picture, weight=0.5, **own))
    assert again.loads == ()
    assert again.needs_bytes == pytest.approx(first.needs_bytes, rel=0.02)


def test_metadata_reads_back(engine, picture, tmp_path):
    request = prompted("tiny-xl", "xl-plus", picture, weight=0.75, weight_type="style only")
    made = engine.generate(request, outputs=Outputs(tmp_path)).pictures[0]
    read = read_picture(made.path.read_bytes(), engine.registry)
    assert read.request is not None
    stored = read.request["extensions"]
    assert stored["ip_adapter"]["values"]["weight_type"] == "style only"
    again = engine.generate(ask("tiny-xl", extensions=stored), outputs=Outputs(tmp_path)).pictures[0]
    assert np.array_equal(np.asarray(Image.open(again.path)), np.asarray(Image.open(made.path)))


def test_a1111_reads_a_unit_of_its_controlnet_and_so_do_we(engine, picture):
    made = engine.generate(prompted("tiny-xl", "xl", picture, weight=0.75, end=0.5)).pictures[0]
    written = re.search(r'ControlNet 0: ("(?:\\.|[^\\"])+")', made.parameters)
    assert written
    unit = json.loads(written[1])
    assert re.fullmatch(
        r"Module: ip-adapter-auto, Model: xl \[[0-9a-f]{8}\], Weight: 0.75, Guidance Start: 0.0, Guidance End: 0.5",
        unit,
    )
    line = "a fox\nSteps: 20, Sampler: Euler, CFG scale: 7, Seed: 1, ControlNet 0: "
    told = read_parameters(line + written[1], engine.registry).fields["extensions"]["ip_adapter"]["values"]
    assert told == {"adapter": "xl", "weight": 0.75, "start": 0.0, "end": 0.5}
    strict = read_parameters(line + '"Module: CLIP-ViT-H (IPAdapter), Model: xl, Control Mode: 2"', engine.registry)
    assert "Control Mode '2' has no counterpart here" in " ".join(strict.notes)
