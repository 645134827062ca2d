"""Prompts filled in on the way to pictures, and back from their metadata."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from backend.engine.engine import Engine
from backend.engine.uses import Use
from backend.errors import BadRequest
from backend.records.metadata import read_picture
from backend.records.outputs import Outputs
from backend.request import parse_request, request_to_json
from extensions.dynamic_prompts.hooks import attempt, list_wildcards, restore
from tests.engine.conftest import ask

ANIMALS = "fox\nhen\ncat\nowl\n"


@pytest.fixture
def filling(engine: Engine) -> Engine:
    folder = Path(engine.settings.data_dir) / "extension-data" / "dynamic_prompts" / "wildcards"
    (folder / "animal.txt").write_text(ANIMALS)
    return engine


def panel(**values: object) -> dict[str, object]:
    return {"dynamic_prompts": {"version": 1, "values": values}}


def prompts(result) -> list[str]:
    return [picture.parameters.split("\n")[0] for picture in result.pictures]


def test_words_are_filled_in_without_a_switch_and_each_picture_has_its_own(filling, checkpoint):
    asked = ask(checkpoint, prompt="a __animal__ {on|in} {red|green|blue}", batch_count=2, batch_size=3, steps=1)
    result = filling.generate(asked)
    assert len(set(prompts(result))) > 2
    assert prompts(filling.generate(asked)) == prompts(result)
    for number, picture in enumerate(result.pictures):  # picture i is what its own seed makes
        (alone,) = filling.generate(ask(checkpoint, prompt=asked.prompt, seed=11 + number, steps=1)).pictures
        assert alone.parameters.split("\n")[0] == prompts(result)[number]
        assert np.array_equal(alone.image, picture.image)
        plain = filling.generate(ask(checkpoint, prompt=prompts(result)[number], seed=11 + number, steps=1))
        assert np.array_equal(plain.pictures[0].image, picture.image)


def test_every_prompt_is_filled_in_and_the_template_comes_back(filling, tmp_path):
    fields = {"prompt": "a {fox|hen}", "negative_prompt": "{bad|ugly}", "prompt_clip_l": "x {y|z}"}
    outputs = Outputs(tmp_path, registry=filling.registry)
    picture = filling.generate(ask("tiny-xl", **fields), outputs=outputs).pictures[0]
    told = read_picture(picture.path).request
    assert told["prompt"] in ("a fox", "a hen") and told["negative_prompt"] in ("bad", "ugly")
    values = told["extensions"]["dynamic_prompts"]["values"]
    assert [values[name] for name in ("template", "negative_template", "template_clip_l")] == list(fields.values())

    again = filling.generate(parse_request(told), outputs=Outputs(tmp_path / "again", registry=filling.registry))
    assert again.pictures[0].path.read_bytes() == picture.path.read_bytes()
    assert request_to_json(filling.generate(parse_request({**told, "prompt": "a cat"})).request)["extensions"] == {}


def test_a_prompt_without_words_to_fill_in_leaves_request_and_bytes_alone(filling, checkpoint):
    result = filling.generate(ask(checkpoint, prompt="a fox, [red|green], (b:1.2)", batch_size=2))
    assert result.request.extensions == {} and result.request.batch_size == 2


def test_all_combinations_are_made_once_up_to_the_most(filling):
    asked = ask("tiny-xl", prompt="{a|b} {c|d}", negative_prompt="{e|f}", steps=1,
                extensions=panel(mode="all combinations", most=6, same_seed=True))  # fmt: skip
    result = filling.generate(asked)
    assert len(result.pictures) == 6
    assert {picture.seed for picture in result.pictures} == {11}
    assert len({picture.parameters.split("\nSteps")[0] for picture in result.pictures}) == 6
    assert any("6 of 8 combinations" in note for note in result.notes)
    batched = ask("tiny-xl", prompt="{a|b}", batch_size=2, steps=1, extensions=panel(mode="all combinations"))
    assert [picture.seed for picture in filling.generate(batched).pictures] == [11, 12, 13, 14]


def test_variations_of_one_seed_have_its_words(filling):
    asked = ask("tiny-xl", prompt="{a|b|c|d|e|f}", batch_size=3, variation_strength=0.3, steps=1)
    result = filling.generate(asked)
    assert len(set(prompts(result))) == 1
    assert len({picture.image.tobytes() for picture in result.pictures}) == 3


def test_a_missing_wildcard_names_near_ones_the_folder_and_the_field(filling):
    with pytest.raises(BadRequest, match=r"Did you mean 'animal'.*wildcards") as caught:
        filling.generate(ask("tiny-xl", negative_prompt="__animl__"))
    assert caught.value.field == "negative_prompt"


def test_a_sweep_fills_the_same_words_into_every_cell(filling, tmp_path):
    values = {"x": "steps: 1,2", "y": "replace: {red|green}, blue"}
    asked = ask("tiny-xl", prompt="a __animal__, {red|green}", extensions={"sweep": {"version": 1, "values": values}})
    result = filling.generate(asked, outputs=Outputs(tmp_path, registry=filling.registry))
    told = [read_picture(picture.path).request["prompt"] for picture in result.pictures[:4]]
    assert len(result.pictures) == 5
    assert len({text.split(",")[0] for text in told}) == 1
    assert sorted(text.split(", ")[1] == "blue" for text in told) == [False, False, True, True]
    assert read_picture(result.pictures[4].path).request["prompt"] == asked.prompt


def view(engine: Engine, values: dict[str, object] | None = None, **fields: object):
    request = ask("tiny-xl", extensions=panel(**(values or {})), **fields)
    seen = engine.extensions.view("dynamic_prompts", request, print, use=Use())
    assert seen is not None
    return seen


def test_try_shows_the_texts_that_will_be_made(filling):
    told = attempt(view(filling, prompt="a __animal__ {1|2|3}", batch_count=8)).text.split("\n")
    made = filling.generate(ask("tiny-xl", prompt="a __animal__ {1|2|3}", batch_count=8, steps=1))
    assert told == list(dict.fromkeys(prompts(made)))
    assert "nothing" in attempt(view(filling, prompt="a fox")).text
    assert attempt(view(filling, prompt="{a|b}", seed=-1)).text


def test_wildcards_are_listed_with_their_folder(filling):
    text = list_wildcards(view(filling)).text
    assert text.startswith("__animal__") and str(filling.settings.data_dir) in text


def test_a_template_is_put_back_into_every_prompt_that_it_came_from(filling):
    values = {"template": "{a|b}", "negative_template": "{c|d}"}
    assert restore(view(filling, values)).fields == {"prompt": "{a|b}", "negative_prompt": "{c|d}"}
    assert "no template" in restore(view(filling)).text
