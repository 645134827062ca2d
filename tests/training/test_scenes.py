"""Scenes: the same seed draws the same pool, things stay inside, captions say what is there."""

from __future__ import annotations

import re

import numpy as np
import pytest

from backend.errors import NotFound
from backend.training.captions import caption, plain_caption, with_article
from backend.training.objects import BACKGROUNDS, CORE, MORE, THINGS
from backend.training.pool import draw_pool
from backend.training.scenes import STAGES, Icons, Item, Scene, draw_background, draw_scene, random_scene


def test_there_are_forty_core_objects_and_a_hundred_more_all_with_names_of_their_own():
    assert len(CORE) == 40
    assert len(MORE) >= 100
    names = [name for thing in THINGS.values() for name in (thing.name, *thing.also)]
    assert len(set(names)) == len(names)
    assert len({thing.code for thing in THINGS.values()}) == len(THINGS) == len(CORE) + len(MORE)


def test_the_same_seed_draws_the_same_pool(icons_folder):
    first, second = (draw_pool(icons_folder, ("everything",), 6, 64, seed=3) for _ in range(2))
    assert first.scenes == second.scenes
    assert bool((first.images == second.images).all())
    assert first.images.shape == (6, 3, 64, 64)


def test_a_missing_picture_is_named_with_the_way_to_get_it(tmp_path):
    with pytest.raises(NotFound, match=r"1f98a\.webp.*'fox'.*npm pack"):
        Icons(tmp_path, CORE[:1])


@pytest.mark.parametrize("place", ["left", "right"])
def test_a_thing_at_one_side_leaves_the_other_side_alone(icons_folder, place):
    rng = np.random.default_rng(0)
    picture = draw_scene(Scene("white", (Item("fox", "normal", place),)), Icons(icons_folder, CORE), 64, rng)
    halves = {"left": picture[:, 40:], "right": picture[:, :24]}
    assert np.ptp(halves[place].astype(int), axis=(0, 1)).max() == 0


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_every_background_is_drawn_at_any_size(background):
    assert draw_background(background, 40, np.random.default_rng(0)).shape == (40, 40, 3)


@pytest.mark.parametrize("stage", STAGES.values(), ids=lambda stage: stage.name)
def test_captions_of_a_stage_name_only_what_the_scene_holds(stage):
    rng = np.random.default_rng(1)
    for _ in range(200):
        scene = random_scene(stage, rng)
        text = f" {caption(scene, rng)} "
        names = [name for item in scene.items for name in (THINGS[item.thing].name, *THINGS[item.thing].also)]
        left = re.sub("|".join(sorted(names, key=len, reverse=True)), "", text)
        strangers = [name for name in THINGS if f" {name} " in left and name not in ("orange", "snow")]
        assert not strangers, (scene, text)


def test_the_first_of_a_pair_is_on_the_left_in_words_and_in_the_picture():
    scene = Scene("white", (Item("fox", "normal", "left"), Item("green heart", "normal", "right")))
    rng = np.random.default_rng(0)
    captions = {caption(scene, rng) for _ in range(300)}
    assert "a fox on the left and a green heart on the right, on a white background" in captions
    assert not any(text.startswith("a fox to the right") for text in captions)


@pytest.mark.parametrize(
    ("words", "expected"),
    [("fox", "a fox"), ("apple", "an apple"), ("unicorn", "a unicorn"), ("cherries", "cherries"), ("sun", "the sun")],
)
def test_articles_are_english(words, expected):
    assert with_article(words) == expected


def test_the_plain_caption_is_the_one_that_recognition_uses():
    assert plain_caption("owl", "night") == "an owl in the night sky with stars"
