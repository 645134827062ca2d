"""Expansion by rules: what stands in a prompt stays, nothing is told twice, the seed decides, the negative is heard."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.text.prompt import parse_prompt
from extensions.prompt_expand.rules import additions, expand_by_rules
from extensions.prompt_expand.syntax import cleaned, inserted, meets, plain, words_of
from extensions.prompt_expand.words import NOT_PHOTOS, TOLD, WORDS

ALL = list(WORDS)
SEEDS = range(60)


def tags(prompt: str, seed: int, negative: str = "", amount: int = 5) -> list[str]:
    return [each.tag for each in additions(prompt, negative, seed=seed, amount=amount, aspects=ALL)]


def longer(prompt: str, seed: int = 7, **options) -> str:
    options = {"negative": "", "amount": 3, "aspects": ALL, "style": "tags", **options}
    return expand_by_rules(prompt, options.pop("negative"), seed=seed, **options)


def test_the_seed_decides_and_repeats():
    assert longer("a fox") == longer("a fox")
    assert len({longer("a fox", seed) for seed in SEEDS}) > 40


def test_tags_and_sentences_say_the_same():
    chosen = additions("a fox", "", seed=7, amount=3, aspects=ALL)
    assert longer("a fox") == "a fox, " + ", ".join(each.tag for each in chosen)
    assert longer("a fox", style="sentences") == "a fox. " + " ".join(each.sentence for each in chosen)
    assert longer("a fox.", style="sentences").startswith("a fox. ")


@pytest.mark.parametrize("aspect", ALL)
def test_an_aspect_that_a_prompt_tells_of_is_left_alone(aspect):
    mine = {each.tag for each in WORDS[aspect]}
    for word in TOLD[aspect]:
        for seed in range(6):
            assert not mine.intersection(tags(f"a fox, {word}", seed))


def test_an_aspect_that_is_switched_off_is_left_alone_and_no_more_is_added_than_asked():
    lights = {each.tag for each in WORDS["light"]}
    for seed in SEEDS:
        added = additions("a fox", "", seed=seed, amount=2, aspects=["light", "mood", "medium"])
        assert len(added) == 2
        assert len(lights.intersection(each.tag for each in added)) <= 1
    assert longer("a fox", aspects=[]) == "a fox"


def test_every_aspect_tells_of_itself_so_that_a_second_expansion_adds_nothing():
    for seed in SEEDS:
        for style in ("tags", "sentences"):
            once = longer("a fox", seed, amount=5, style=style)
            assert once != "a fox"
            told = [each.tag for each in additions(once, "", seed=seed + 1, amount=5, aspects=ALL)]
            assert set(told) <= {each.tag for each in (*WORDS["camera"], *WORDS["medium"])}, once


@pytest.mark.parametrize(
    ("negative", "gone"),
    [("blurry, lowres", "shallow depth of field"), ("photo", "film photograph"), ("painting", "oil painting"),
     ("sad people", "melancholic mood"), ("night", "moonlight"), ("lights of candles", "warm candlelight")],
)  # fmt: skip
def test_nothing_is_added_that_the_negative_prompt_is_against(negative, gone):
    assert gone in {tag for seed in range(300) for tag in tags("a fox", seed)}
    for seed in range(300):
        added = additions("a fox", negative, seed=seed, amount=5, aspects=ALL)
        assert gone not in [each.tag for each in added]
        assert not any(meets(each.tag, words_of(negative)) for each in added)


def test_small_words_of_a_negative_prompt_take_nothing_away():
    assert tags("a fox", 3) == tags("a fox", 3, "the worst of it, low quality")


def test_medium_camera_and_tone_fit_together():
    photographic = {each.tag for each in (*WORDS["medium"], *WORDS["camera"]) if each.photo}
    tone = {each.tag: each.tone for words in WORDS.values() for each in words}
    for seed in range(200):
        added = tags("a fox", seed)
        media = {
            each in photographic for each in added if each in {w.tag for a in ("medium", "camera") for w in WORDS[a]}
        }
        assert len(media) <= 1
        assert len({tone[each] for each in added} - {"any"}) <= 1
        assert not photographic.intersection(tags("a watercolor of a fox", seed))
        assert "dark" not in {tone[each] for each in tags("a sunny fox", seed)}


@pytest.mark.parametrize(
    "prompt",
    ["(a fox:1.2)", "a [red:blue:0.5] fox", "[a|b] fox", "a fox <lora:emoji:0.8>", "a fox BREAK a hen", r"a \(fox\)",
     "a fox, ", "", "  ", "{a|b} __animal__", "a (fox"],
)  # fmt: skip
def test_what_means_something_in_a_prompt_stays_as_it_is(prompt):
    expanded = longer(prompt)
    assert expanded.startswith(prompt.rstrip())
    assert len(expanded) > len(prompt)


def test_an_addition_stands_in_the_first_of_the_prompts_that_and_joins_before_its_weight():
    assert inserted("a fox :0.5 AND a hen :1.5", ", x") == "a fox, x :0.5 AND a hen :1.5"
    assert inserted("a fox AND a hen", ", x") == "a fox, x AND a hen"
    assert inserted("(a AND b) fox", ", x") == "(a AND b) fox, x"
    before, after = (parse_prompt(text, 4).parts for text in ("a fox AND [b|c]:0.7", longer("a fox AND [b|c]:0.7")))
    assert [part.weight for part in after] == [1.0, 0.7]
    assert after[1] == before[1]


@given(st.text(alphabet="ab ,.:()[]{}<>|\\0.5AND" + "狐", max_size=40))
def test_no_prompt_loses_anything(prompt):
    expanded = inserted(prompt, ", ADDED")
    without = [expanded.replace(form, "", 1) for form in (", ADDED", "ADDED")]
    assert "".join(prompt.split()) in ["".join(text.split()) for text in without]


def test_plain_words_are_those_that_an_encoder_reads():
    assert plain("(a fox:1.2), [red|blue] BREAK <lora:x:1> hen :0.5") == "a fox, red blue, hen"
    assert words_of("Foxes, CLOSE-UP") == {"foxes", "foxe", "close-up"}


def test_what_a_language_model_writes_cannot_change_a_prompts_structure():
    written = " in (the [snow:1.5] AND <lora:x:9> BREAK, golden, a fox, golden, blurry trees, cut of"
    told = cleaned(written, words_of("a fox"), words_of("blurry"), whole=False)
    assert told == "in the snow 1, 5 and lora x 9 break, golden"


def test_every_word_is_one_that_its_aspect_knows_and_no_tag_stands_twice():
    every = [each.tag for words in WORDS.values() for each in words]
    assert len(every) == len(set(every))
    for aspect, words in WORDS.items():
        for each in words:
            assert words_of(each.tag) & TOLD[aspect], each.tag
            assert each.sentence[0].isupper()
            assert each.sentence.endswith(".")
    assert "photograph" not in NOT_PHOTOS
