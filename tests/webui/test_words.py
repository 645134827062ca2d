"""Words that extensions offer while one types: found quickly, checked, and asked for over HTTP within limits."""

from __future__ import annotations

import json

import pytest

from backend.errors import BadRequest
from tests.webui.running import running
from tests.webui.test_extension_host import web, write
from webui import word_finder
from webui.word_lists import Word, WordList, WordsSpec

WORDS = """
hung = threading.Event()

def slow(typed, most):
    hung.wait(60)
    return []

@hookimpl
def register_words(studio):
    tags = WordList(Word(f"tag {number} of many", f"{number} pictures") for number in range(100_000))
    return [WordsSpec("tags", tags.find), WordsSpec("colours", lambda typed, most: [Word("crimson")], starts="@"),
            WordsSpec("wild", lambda typed, most: (Word(f"{typed}{n}") for n in range(10**9)), "__", "__")]
"""
FAULTY = {
    "raises": "@hookimpl\ndef register_words():\n    return [WordsSpec('a', lambda typed, most: 1 / 0)]",
    "exits": "@hookimpl\ndef register_words():\n    return [WordsSpec('a', lambda typed, most: sys.exit(2))]",
    "lies": "@hookimpl\ndef register_words():\n    return [WordsSpec('a', lambda typed, most: ['tag'])]",
    "breaks": "@hookimpl\ndef register_words():\n    return [WordsSpec('a', lambda typed, most: [Word('a\\nb')])]",
}


def test_a_list_finds_beginnings_first_then_later_words_in_its_order():
    names = ["long_hair", "hair ornament", "Very long hair", "longing", "a-long", "ganyu (genshin impact)"]
    words = WordList(Word(name) for name in names)
    found = lambda typed, most=9: [word.text for word in words.find(typed, most)]  # noqa: E731 - short here
    assert found("LONG") == ["long_hair", "longing", "Very long hair"]
    assert found("long_ha") == found("long  ha") == ["long_hair", "Very long hair"]
    assert found("hair", 2) == ["hair ornament", "long_hair"]
    assert found("(gen") == ["ganyu (genshin impact)"]
    assert found("nothing") == []
    assert found("", 2) == names[:2]
    assert (len(words), WordList(()).find("a", 3)) == (6, [])


@pytest.mark.parametrize(
    ("typed", "parts"),
    [
        ("in the golden ho", ["in the golden ho", "the golden ho", "golden ho", "ho"]),
        ("a b c d e f", ["a b c d e f", "c d e f", "d e f", "e f"]),
        ("gol", ["gol"]),
        ("two  gol", ["two  gol", "gol"]),
        ("behind it ", ["behind it "]),
        ("g", []),
    ],
)
def test_a_sentence_is_looked_for_by_fewer_and_fewer_of_its_last_words(typed, parts):
    assert word_finder.endings(typed) == parts


@pytest.mark.parametrize(
    "arguments",
    [{"name": "A b"}, {"name": "a", "starts": "ab"}, {"name": "a", "starts": "<"}, {"name": "a", "ends": "__"},
     {"name": "a", "starts": "_" * 9}, {"name": "a", "starts": "@ "}],
)  # fmt: skip
def test_words_with_marks_that_prompts_read_otherwise_are_refused(arguments):
    with pytest.raises(BadRequest):
        WordsSpec(find=lambda _typed, _most: (), **arguments)


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    folder = tmp_path_factory.mktemp("words")
    write(folder, {"words": WORDS, **FAULTY})
    with running(folder, extended=True) as here:
        yield here


def ask(here, typed, starts="", status=200):
    answer = here.client.post("/api/v1/words", json={"typed": typed, "starts": starts})
    assert answer.status_code == status, answer.text
    assert len(answer.content) < 4000
    return answer.json()


def test_register_words_is_asked_for_the_phrase_then_for_its_last_words(here):
    told = ask(here, "tag 77")
    assert [word["text"] for word in told["words"]][:2] == ["tag 77 of many", "tag 770 of many"]
    assert told["words"][0]["fact"] == "77 pictures"
    assert (told["typed"], len(told["words"])) == ("tag 77", 8)
    told = ask(here, "a fox with ma")
    assert (told["typed"], len(told["words"])) == ("ma", 8)
    told = ask(here, "two of the tag 5")
    assert (told["typed"], told["words"][0]["text"]) == ("tag 5", "tag 5 of many")
    assert ask(here, "a fox")["words"] == []


def test_a_mark_of_its_own_has_its_words_alone_and_no_search_runs_on(here):
    assert ask(here, "c", starts="@")["words"] == [{"text": "crimson", "fact": "", "ends": ""}]
    told = ask(here, "x", starts="__")["words"]
    assert [word["text"] for word in told] == [f"x{number}" for number in range(8)]
    assert told[0]["ends"] == "__"
    assert ask(here, "c", starts="$")["words"] == []


def test_what_fails_is_named_and_left_out_after_three_times_and_the_others_answer(here):
    for _ in range(5):
        assert ask(here, "tag 9")["words"]
    for name in FAULTY:
        assert (web(here, name)["failures"], web(here, name)["hook_calls"]["register_words"]) == (
            3,
            4,
        )  # the registry itself, too
    assert "ZeroDivisionError" in web(here, "raises")["reason"]
    assert "SystemExit" in web(here, "exits")["reason"]
    assert "no Word of two texts" in web(here, "lies")["reason"]
    assert "on one line" in web(here, "breaks")["reason"]
    assert web(here, "words")["failures"] == 0


@pytest.mark.parametrize(
    "body",
    [{"typed": "x" * 201}, {"typed": 3}, {"starts": ["a"]}, {"typed": "a", "prompt": "b"}, {"typed": None}],
)
def test_what_is_asked_for_is_short_text(here, body):
    answer = here.client.post("/api/v1/words", content=json.dumps(body), headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")


def test_a_search_that_hangs_is_given_up_and_not_asked_again_before_it_returns(tmp_path, monkeypatch):
    monkeypatch.setattr(word_finder, "SECONDS", 0.2)
    hanging = "@hookimpl\ndef register_words():\n    return [WordsSpec('a', slow)]"
    write(tmp_path, {"hangs": WORDS.partition("@hookimpl")[0] + hanging, "words": WORDS})
    with running(tmp_path, extended=True) as here:
        for _ in range(4):
            assert ask(here, "tag 9")["words"]
        assert web(here, "hangs")["failures"] == 1
        assert "did not find words (a) within 0.2 s" in web(here, "hangs")["reason"]
        assert not list((tmp_path / ".hooks-running").glob("*"))
        assert here.client.post("/api/v1/extensions/words", json={"on": False}).status_code == 202
        assert ask(here, "tag 9")["words"] == []  # switched off: silent at once
