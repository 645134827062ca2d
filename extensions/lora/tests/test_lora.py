"""LoRAs from tag to bytes: whole pictures on tiny checkpoints of three families."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from backend.checkpoints.save import write_tensors
from backend.engine.engine import Engine
from backend.errors import BadRequest, ModelUnsupported, NotFound
from backend.formats.configs import Part
from backend.records.metadata import read_parameters
from backend.records.tags import PromptTag, find_tags, without_tags
from backend.request import GenerationRequest
from backend.settings import load_settings
from extensions.lora.hooks import choice_of
from extensions.lora.tests.conftest import lora_file
from tests.engine.conftest import ask

CHECKPOINTS = ["tiny-xl", "tiny-sd3", "tiny-one"]


@pytest.fixture(params=CHECKPOINTS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param).removeprefix("tiny-")


def pixels(engine: Engine, checkpoint: str, prompt: str = "a fox", **fields: object) -> np.ndarray:
    result = engine.generate(ask(checkpoint, prompt=prompt, **fields))
    return np.stack([np.asarray(picture.image, dtype=np.int16) for picture in result.pictures])


@pytest.mark.parametrize("naming", ["kohya", "peft"])
def test_a_lora_changes_the_picture_and_leaves_no_trace(adapted, name, naming):
    checkpoint, tag = f"tiny-{name}", f"<lora:{naming}-{name}"
    plain = pixels(adapted, checkpoint)
    changed = pixels(adapted, checkpoint, f"a fox{tag}:0.8>")
    assert (changed != plain).any()
    assert np.array_equal(pixels(adapted, checkpoint, f"a fox{tag}:0>"), plain)
    assert np.array_equal(pixels(adapted, checkpoint), plain)
    assert np.array_equal(pixels(adapted, checkpoint, f"a fox{tag}:0.8>"), changed)
    fresh = Engine(adapted.settings)
    assert np.array_equal(pixels(fresh, checkpoint, f"a fox{tag}:0.8>"), changed)


def test_strengths_of_text_encoders_and_denoiser_act_apart(adapted, name):
    checkpoint, file = f"tiny-{name}", f"kohya-{name}"
    tags = ["", ":te=0.7:unet=0", ":te=0:unet=0.7", ":te=0.7:unet=0.7"]
    pictures = [pixels(adapted, checkpoint, f"a fox<lora:{file}{tag}>" if tag else "a fox") for tag in tags]
    for number, one in enumerate(pictures):
        assert all((one != other).any() for other in pictures[:number])
    assert np.array_equal(pixels(adapted, checkpoint, f"a fox<lora:{file}:0.7>"), pictures[3])
    assert np.array_equal(pixels(adapted, checkpoint, f"a fox<lora:{file}:0.7:0>"), pictures[1])


def test_every_text_encoder_reads_its_own(adapted, lora_models):
    plain = pixels(adapted, "tiny-sd3")
    parts: tuple[Part, ...] = ("clip_l", "clip_g", "t5")
    for part in parts:
        write_tensors(lora_models / "loras" / f"only-{part}.safetensors", lora_file("sd3", parts=(part,)), {})
        assert (pixels(adapted, "tiny-sd3", f"a fox<lora:only-{part}>") != plain).any(), part


def test_a_batch_equals_its_singles(adapted, name):
    prompt = f"a fox<lora:kohya-{name}:0.8>"
    batch = pixels(adapted, f"tiny-{name}", prompt, batch_size=2)
    singles = [pixels(adapted, f"tiny-{name}", prompt, seed=seed)[0] for seed in (11, 12)]
    assert np.abs(batch - np.stack(singles)).max() <= 1


def test_a_tag_in_the_negative_prompt_acts_once_on_the_whole_job(adapted, name):
    checkpoint, tag = f"tiny-{name}", f"<lora:kohya-{name}:0.8>"
    here = pixels(adapted, checkpoint, f"a fox{tag}")
    assert np.array_equal(pixels(adapted, checkpoint, negative_prompt=tag), here)
    assert np.array_equal(pixels(adapted, checkpoint, f"a fox{tag}{tag}", negative_prompt=tag), here)


def test_changing_a_strength_loads_nothing_again(adapted):
    pixels(adapted, "tiny-xl", "a fox<lora:kohya-xl:0.8>")
    before = {key: resident.module for key, resident in adapted.manager._residents.items()}
    pixels(adapted, "tiny-xl", "a fox<lora:kohya-xl:0.3>")
    after = adapted.manager._residents
    assert all(after[key].module is module for key, module in before.items())


def test_unknown_names_are_told_with_near_ones(adapted):
    with pytest.raises(NotFound, match="kohya-xl") as caught:
        adapted.generate(ask("tiny-xl", prompt="a fox <lora:kohya-xll:1>"))
    assert caught.value.field == "prompt"
    with pytest.raises(NotFound) as caught:
        adapted.generate(ask("tiny-xl", negative_prompt="<lora:nobody:1>"))
    assert caught.value.field == "negative_prompt"


@pytest.mark.parametrize(("checkpoint", "file"), [("tiny-xl", "kohya-sd3"), ("tiny-sd3", "kohya-one"),
                                                  ("tiny-xl", "nothing")])  # fmt: skip
def test_a_lora_for_another_family_is_refused_by_name(adapted, checkpoint, file):
    plain = pixels(adapted, checkpoint)
    with pytest.raises(ModelUnsupported, match=file):
        adapted.generate(ask(checkpoint, prompt=f"a fox <lora:{file}:1>"))
    assert np.array_equal(pixels(adapted, checkpoint), plain)


def test_keys_without_a_place_are_told_and_a_trainers_name_is_known(adapted):
    result = adapted.generate(ask("tiny-xl", prompt="a fox <lora:strange fox:0.5>"))
    (note,) = [note for note in result.notes if "matched" in note]
    assert note.startswith("sub/odd: matched 21 of 22 keys; ")
    assert "lora_unet_nowhere" in note
    assert result.request.prompt == "a fox <lora:strange fox:0.5>"


def test_hashes_stand_in_the_parameters_and_read_back(adapted):
    result = adapted.generate(ask("tiny-xl", prompt="a fox <lora:kohya-xl:0.5> <lora:odd:0.2>"))
    text = result.pictures[0].parameters
    parsed = read_parameters(text, adapted.registry)
    names = [pair.split(": ") for pair in parsed.facts["lora_hashes"].split(", ")]
    assert [each for each, _ in names] == ["kohya-xl", "odd"]
    assert all(len(digits) == 12 for _, digits in names)
    assert parsed.fields["prompt"] == "a fox <lora:kohya-xl:0.5> <lora:odd:0.2>"
    assert "Lora hashes" in text


def test_low_memory_and_bfloat16_come_back_to_the_plain_picture(adapted, lora_models, tmp_path):
    settings = load_settings(data_dir=tmp_path, models_dir=lora_models, device="cpu", dtype="bfloat16", low_memory="on")
    engine = Engine(settings)
    plain = pixels(engine, "tiny-xl")
    assert (pixels(engine, "tiny-xl", "a fox<lora:kohya-xl:0.8>") != plain).any()
    assert np.array_equal(pixels(engine, "tiny-xl"), plain)


def test_a_refiner_is_left_alone_and_a_note_says_so(adapted, lora_models):
    result = adapted.generate(ask("tiny-xl", prompt="a fox<lora:kohya-xl:0.8>", refiner="tiny-xl", refiner_switch=0.5))
    assert any("not on the refiner" in note for note in result.notes)


@pytest.mark.parametrize(("tag", "told"), [
    ("<lora:a>", (1.0, None)),
    ("<lora:a:0.8>", (0.8, None)),
    ("<lyco:a:0.5:0.8>", (0.8, 0.5)),
    ("<lora:a:te=0.5:unet=0.8>", (0.8, 0.5)),
    ("<LoRA:a:te=0.5>", (0.5, 0.5)),
    ("<lora:a:unet=0.8>", (0.8, 1.0)),
    ("<lora: a : -1 >", (-1.0, None)),
])  # fmt: skip
def test_tag_tells_strengths(tag, told):
    (found,) = find_tags(GenerationRequest(prompt=tag), ["lora", "lyco"])
    choice = choice_of(found, GenerationRequest())
    assert (choice.file, choice.denoiser, choice.text) == ("a", *told)
    assert (choice.start, choice.end, choice.region) == (0.0, 1.0, None)


@pytest.mark.parametrize("tag", [
    "<lora:>", "<lora:a:b>", "<lora:a:1:1:1>", "<lora:a:nan>", "<lora:a:dyn=4>", "<lora:a:start=x>",
    "<lora:a:region=middle>", "<lora:a:region=0,0,1>", "<lora:a:region=0.5,0,0.5,1>", "<lora:a:region=0,0,2,1>",
])  # fmt: skip
def test_tag_that_means_nothing_is_refused(tag):
    (found,) = find_tags(GenerationRequest(prompt=tag), ["lora"])
    with pytest.raises(BadRequest, match="lora"):
        choice_of(found, GenerationRequest())


def test_tags_are_taken_out_of_the_text_and_escaped_ones_stay():
    request = GenerationRequest(prompt=r"a <lora:x:1>fox, \<lora:y:1>, (<lyco:z>b:1.2)", negative_prompt="<lora:n>bad")
    read = without_tags(request, ["lora", "lyco"])
    assert (read.prompt, read.negative_prompt) == (r"a fox, \<lora:y:1>, (b:1.2)", "bad")
    assert [tag.values[0] for tag in find_tags(request, ["lora", "lyco"])] == ["x", "z", "n"]
    assert without_tags(replace(request, prompt="a fox", negative_prompt=""), ["lora"]).prompt == "a fox"
    assert isinstance(find_tags(request, ["lora"])[0], PromptTag)
