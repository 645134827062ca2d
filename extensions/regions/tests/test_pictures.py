"""Regions from request to bytes, on tiny checkpoints of both families."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from backend.checkpoints.save import write_tensors
from backend.engine.engine import Engine
from backend.errors import BadRequest
from backend.records.metadata import read_parameters
from backend.request import GenerationRequest
from backend.settings import load_settings
from extensions.lora.tests.conftest import lora_file
from tests.builders import tiny_checkpoint
from tests.engine.conftest import ask, mask_bytes

TWO = "a fox BREAK a cat"


def regional(checkpoint: str, prompt: str = TWO, *, more: dict[str, dict[str, object]] | None = None,
             fields: dict[str, object] | None = None, **values: object) -> GenerationRequest:  # fmt: skip
    panels = {"regions": values, **(more or {})}
    extensions = {name: {"version": 1, "values": panel} for name, panel in panels.items()}
    return ask(checkpoint, prompt=prompt, extensions=extensions, **(fields or {}))


def pixels(engine: Engine, request: GenerationRequest) -> np.ndarray:
    return np.stack([np.asarray(picture.image, dtype=np.int16) for picture in engine.generate(request).pictures])


@pytest.mark.parametrize("mode", ["attention", "latent"])
def test_one_region_that_covers_all_is_the_plain_prompt(engine: Engine, checkpoint: str, mode: str) -> None:
    plain = pixels(engine, ask(checkpoint))
    # a call of three branches: matrix products of another batch size round otherwise
    most = 1 if mode == "latent" else 0
    assert np.abs(pixels(engine, regional(checkpoint, "a fox", layout="1", mode=mode)) - plain).max() <= most
    whole = pixels(engine, regional(checkpoint, f"a fox BREAK {TWO}", base_share=1.0, mode=mode))
    assert np.abs(whole - plain).max() <= most
    assert np.array_equal(pixels(engine, ask(checkpoint)), plain)


def test_two_regions_are_neither_prompt(engine: Engine, checkpoint: str) -> None:
    pictures = [pixels(engine, ask(checkpoint, prompt=prompt)) for prompt in ("a fox", "a cat", "a fox, a cat")]
    ways = ({}, {"mode": "latent"}, {"isolation": 0.0}, {"feather": 16}, {"until": 0.5}, {"layout": "1;1"})
    pictures += [pixels(engine, regional(checkpoint, **values)) for values in ways]
    if checkpoint == "tiny-xl":
        assert np.array_equal(pictures[5], pictures[3]), "a U-Net's text tokens look at nothing"
        del pictures[5]
    for number, one in enumerate(pictures):
        assert all((one != other).any() for other in pictures[:number])


def test_halves_of_the_same_prompt_are_the_prompt_in_latent_mode(engine: Engine, checkpoint: str) -> None:
    same = pixels(engine, regional(checkpoint, "a fox BREAK a fox", mode="latent"))
    assert np.abs(same - pixels(engine, ask(checkpoint))).max() <= 1


def test_a_first_part_more_is_a_base_or_stands_before_each(engine: Engine, checkpoint: str) -> None:
    base = pixels(engine, regional(checkpoint, f"snow BREAK {TWO}"))
    assert (base != pixels(engine, regional(checkpoint))).any()
    assert (base != pixels(engine, regional(checkpoint, f"snow BREAK {TWO}", base_share=0.6))).any()
    before = pixels(engine, regional(checkpoint, f"snow BREAK {TWO}", first="before each"))
    assert np.array_equal(before, pixels(engine, regional(checkpoint, "snow, a fox BREAK snow, a cat")))
    lines = pixels(engine, regional(checkpoint, "snow\na fox\na cat", first="before each", split="lines"))
    assert np.array_equal(before, lines)


def test_a_batch_equals_its_singles(engine: Engine, checkpoint: str) -> None:
    for mode in ("attention", "latent"):
        batch = pixels(engine, regional(checkpoint, fields={"batch_size": 2}, mode=mode))
        assert np.abs(batch[:1] - pixels(engine, regional(checkpoint, mode=mode))).max() <= 1


def test_drawn_masks_take_the_place_of_the_layout(
    engine: Engine, checkpoint: str, stored: Callable[[bytes], str]
) -> None:
    left, right = stored(mask_bytes((0, 0, 32, 64))), stored(mask_bytes((32, 0, 64, 64)))
    drawn = pixels(engine, regional(checkpoint, mask_1=left, mask_3=right, layout="1;1;1"))
    assert np.array_equal(drawn, pixels(engine, regional(checkpoint)))
    with pytest.raises(BadRequest, match="3 parts for 1 region"):
        engine.generate(regional(checkpoint, f"snow BREAK {TWO}", mask_2=left))


def test_a_negative_prompt_is_common_or_has_parts_of_its_own(engine: Engine, checkpoint: str) -> None:
    common = pixels(engine, regional(checkpoint, fields={"negative_prompt": "bad"}))
    own = pixels(engine, regional(checkpoint, fields={"negative_prompt": "bad BREAK ugly"}))
    assert (common != own).any()
    one = pixels(engine, regional(checkpoint, "a fox", layout="1", fields={"negative_prompt": "bad"}))
    assert np.array_equal(one, pixels(engine, ask(checkpoint, negative_prompt="bad")))
    with pytest.raises(BadRequest, match="negative prompt has 4 parts") as caught:
        engine.generate(regional(checkpoint, fields={"negative_prompt": "a BREAK b BREAK c BREAK d"}))
    assert caught.value.field == "negative_prompt"


def test_a_region_whose_words_change_over_the_steps(engine: Engine, checkpoint: str) -> None:
    four = {"steps": 4}
    for mode in ("attention", "latent"):
        always = [pixels(engine, regional(checkpoint, f"a fox BREAK a {what}", mode=mode, fields=four))
                  for what in ("[cat:dog:2]", "cat", "dog", "[cat:dog:4]")]  # fmt: skip
        assert (always[0] != always[1]).any()
        assert (always[0] != always[2]).any()
        assert np.array_equal(always[3], always[1])


def test_guidance_of_other_extensions_acts_beside_it(engine: Engine, checkpoint: str) -> None:
    pag, apg = {"pag": {"scale": 4.0}}, {"apg": {"norm": 0.5}}
    for mode in ("attention", "latent"):
        alone = pixels(engine, regional(checkpoint, mode=mode))
        for more in (pag, apg, pag | apg):
            both = pixels(engine, regional(checkpoint, mode=mode, more=more))
            assert (both != alone).any()
            only = {name: {"version": 1, "values": values} for name, values in more.items()}
            assert (both != pixels(engine, ask(checkpoint, prompt=TWO, extensions=only))).any()
    one = pixels(engine, regional(checkpoint, "a fox", layout="1", more=pag))
    assert np.array_equal(
        one, pixels(engine, ask(checkpoint, extensions={"pag": {"version": 1, "values": pag["pag"]}}))
    )


@pytest.mark.parametrize("mode", ["attention", "latent"])
def test_it_needs_no_guidance_and_serves_a_refiner_too(engine: Engine, mode: str) -> None:
    for fields in ({"cfg_scale": 1.0}, {"refiner": "tiny-xl", "refiner_switch": 0.5}):
        two = pixels(engine, regional("tiny-xl", mode=mode, fields=fields))
        assert (two != pixels(engine, ask("tiny-xl", prompt=TWO, **fields))).any()
        one = pixels(engine, regional("tiny-xl", "a fox", layout="1", mode=mode, fields=fields))
        assert np.array_equal(one, pixels(engine, ask("tiny-xl", **fields)))


@pytest.mark.parametrize(("prompt", "fields", "match"), [
    ("a fox", {}, "1 part for 2 regions"),
    ("a AND b BREAK c", {}, "AND"),
    (TWO, {"prompt_clip_l": "x"}, "single text encoder"),
])  # fmt: skip
def test_prompts_that_cannot_be_told_apart_are_refused(
    engine: Engine, prompt: str, fields: dict[str, object], match: str
) -> None:
    with pytest.raises(BadRequest, match=match):
        engine.generate(regional("tiny-xl", prompt, fields=fields))


def test_metadata_read_back(engine: Engine) -> None:
    request = regional("tiny-xl", layout="1,2", weights="1, 0.5", base_share=0.1)
    (picture,) = engine.generate(request).pictures
    parsed = read_parameters(picture.parameters, engine.registry)
    assert parsed.fields["extensions"]["regions"]["values"]["layout"] == "1,2"
    assert parsed.fields["prompt"] == TWO


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    models: Path = tmp_path_factory.mktemp("models")
    for name in ("checkpoints", "loras"):
        (models / name).mkdir()
    for family, name in (("sdxl", "xl"), ("sd3", "sd3")):
        tiny_checkpoint(models / "checkpoints" / f"tiny-{name}.safetensors", family)  # type: ignore[arg-type]
        write_tensors(models / "loras" / f"x-{name}.safetensors", lora_file(family), {})
    data = tmp_path_factory.mktemp("data")
    return Engine(load_settings(data_dir=data, models_dir=models, device="cpu", dtype="float32"))


@pytest.mark.parametrize("mode", ["attention", "latent"])
def test_a_lora_in_a_regions_prompt_acts_there(adapted: Engine, checkpoint: str, mode: str) -> None:
    tag = f"<lora:x-{checkpoint.removeprefix('tiny-')}:0.8"
    result = adapted.generate(regional(checkpoint, f"a fox {tag}> BREAK a cat", mode=mode))
    within = np.asarray(result.pictures[0].image, dtype=np.int16)
    assert any("text encoder part is left out" in note for note in result.notes)
    boxed = regional(checkpoint, mode=mode, fields={"negative_prompt": f"{tag}:region=left>"})
    assert np.array_equal(pixels(adapted, boxed)[0], within)
    whole = pixels(adapted, regional(checkpoint, f"{tag}:te=0:unet=0.8> BREAK {TWO}", mode=mode))[0]
    plain = pixels(adapted, regional(checkpoint, mode=mode))[0]
    assert (within != whole).any()
    assert (within != plain).any()
    assert (whole != plain).any()
