"""The prompt language: what each form means, what is said about wrong ones, and that nothing takes long or raises."""

import random
import time
import timeit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.text.brackets import MAX_WEIGHT
from backend.text.prompt import MAX_PARTS, MAX_TOKENS, ParsedPrompt, Piece, clean_text, merge_schedules, parse_prompt


def pieces(text: str, steps: int = 10, step: int = 0) -> list[tuple[str, float]]:
    """The pieces of a prompt without BREAK at a step, weights rounded."""
    (chunk,) = parse_prompt(text, steps).parts[0].at(step).chunks
    return [(piece.text, round(piece.weight, 4)) for piece in chunk]


WEIGHTS = [
    ("", []),
    ("a red fox", [("a red fox", 1.0)]),
    ("a (red) fox", [("a ", 1.0), ("red", 1.1), (" fox", 1.0)]),
    ("a [red] fox", [("a ", 1.0), ("red", 0.9091), (" fox", 1.0)]),
    ("((red))", [("red", 1.21)]),
    ("[[red]]", [("red", 0.8264)]),
    ("([red])", [("red", 1.0)]),
    ("(red:1.3)", [("red", 1.3)]),
    ("(red: 1.3 )", [("red", 1.3)]),
    ("(red:.5)", [("red", 0.5)]),
    ("(red:2.)", [("red", 2.0)]),
    ("(red:+2)", [("red", 2.0)]),
    ("(red:-1)", [("red", -1.0)]),
    ("(red:0)", [("red", 0.0)]),
    ("(a (b:1.5) c:2)", [("a ", 2.0), ("b", 3.0), (" c", 2.0)]),
    ("((a) b:1.5)", [("a", 1.65), (" b", 1.5)]),
    ("(ratio 16:9:1.2)", [("ratio 16:9", 1.2)]),
    ("(a|b:1.2)", [("a|b", 1.2)]),
    ("(style: oil)", [("style: oil", 1.1)]),
    ("(a:)", [("a:", 1.1)]),
    ("()", []),
    ("(:1.3)", []),
    ("a () b", [("a  b", 1.0)]),
    ("(a)(b)", [("ab", 1.1)]),
    ("(a) (b:1.1)", [("a", 1.1), (" ", 1.0), ("b", 1.1)]),
    (r"\(a\)", [("(a)", 1.0)]),
    (r"(\(a\):1.2)", [("(a)", 1.2)]),
    (r"\[a\]", [("[a]", 1.0)]),
    (r"(a\:1.2)", [("a:1.2", 1.1)]),
    (r"[a\|b]", [("a|b", 0.9091)]),
    (r"a\\b", [("a\\b", 1.0)]),
    (r"a \o/", [(r"a \o/", 1.0)]),
    ("trailing \\", [("trailing \\", 1.0)]),
    (r"\<lora:x:1>", [("<lora:x:1>", 1.0)]),
    ("<3 and <b>", [("<3 and <b>", 1.0)]),
    ("a:1.5", [("a:1.5", 1.0)]),
    ("a | b", [("a | b", 1.0)]),
    ("[a:b]", [("a:b", 0.9091)]),
    ("[day: night]", [("day: night", 0.9091)]),
    ("BREAKFAST at ANDY's", [("BREAKFAST at ANDY's", 1.0)]),
    ("Grüße 🦊 שלום", [("Grüße 🦊 שלום", 1.0)]),
]


@pytest.mark.parametrize(("text", "expected"), WEIGHTS)
def test_weights_follow_the_brackets(text, expected):
    assert pieces(text) == expected
    assert parse_prompt(text, 10).warnings == ()


SCHEDULES = [
    ("[a:b:0.5]", 10, [(5, "a"), (10, "b")]),
    ("[a:b:5]", 10, [(5, "a"), (10, "b")]),
    ("[a:b:0.29]", 100, [(29, "a"), (100, "b")]),
    ("[a:b:.25]", 10, [(2, "a"), (10, "b")]),
    ("x[a:3]", 10, [(3, "x"), (10, "xa")]),
    ("x[a::3]", 10, [(3, "xa"), (10, "x")]),
    ("x[:a:3]", 10, [(3, "x"), (10, "xa")]),
    ("[a:b:0]", 10, [(10, "b")]),
    ("[a:b:-3]", 10, [(10, "b")]),
    ("[a:b:1.0]", 10, [(10, "a")]),
    ("[a:b:1]", 10, [(1, "a"), (10, "b")]),
    ("[a:b:99]", 10, [(10, "a")]),
    ("[a:b:99999999999999999999]", 10, [(10, "a")]),
    ("[a:a:0.5]", 10, [(10, "a")]),
    ("[a:[b:c:6]:3]", 10, [(3, "a"), (6, "b"), (10, "c")]),
    ("[[a:b:2]:c:4]", 10, [(2, "a"), (4, "b"), (10, "c")]),
    ("[a:b:2] [c:d:4]", 10, [(2, "a c"), (4, "b c"), (10, "b d")]),
    ("[a|b]", 4, [(1, "a"), (2, "b"), (3, "a"), (4, "b")]),
    ("[a|b|c]", 4, [(1, "a"), (2, "b"), (3, "c"), (4, "a")]),
    ("[a|]x", 3, [(1, "ax"), (2, "x"), (3, "ax")]),
    ("[a|a]", 4, [(4, "a")]),
    ("[a|b:c]", 2, [(1, "a"), (2, "b:c")]),
    ("[a|[b:c:2]]", 4, [(1, "a"), (2, "b"), (3, "a"), (4, "c")]),
    ("[[a|b]:c:2]", 4, [(1, "a"), (2, "b"), (4, "c")]),
    ("(a)", 1, [(1, "a")]),
]


@pytest.mark.parametrize(("text", "steps", "expected"), SCHEDULES)
def test_schedules_change_after_exactly_the_steps_written(text, steps, expected):
    plan = parse_prompt(text, steps)
    assert [(until, prompt.text) for until, prompt in plan.parts[0].schedule] == expected
    assert plan.warnings == ()


def test_emphasis_inside_and_around_schedules_multiplies():
    assert pieces("([a:(b:2):0.5]:1.5)", 10, 0) == [("a", 1.5)]
    assert pieces("([a:(b:2):0.5]:1.5)", 10, 5) == [("b", 3.0)]
    assert pieces("[(a:2)|b]", 10, 0) == [("a", 2.0)]


def test_break_splits_chunks_at_any_depth_and_keeps_weights():
    prompt = parse_prompt("a BREAK (b BREAK c) BREAK ", 10).parts[0].at(0)
    assert prompt.chunks == (
        (Piece("a ", 1.0),),
        (Piece(" ", 1.0), Piece("b ", 1.1)),
        (Piece(" c", 1.1), Piece(" ", 1.0)),
    )
    assert prompt.text == "a   b   c "
    assert len(parse_prompt("BREAK a", 1).parts[0].at(0).chunks) == 2
    assert parse_prompt("BREAK BREAK", 1).parts[0].at(0).chunks == ((),)


AND = [
    ("a AND b", [(1.0, "a "), (1.0, " b")]),
    ("a:1.2 AND b :-0.5 ", [(1.2, "a"), (-0.5, " b ")]),
    ("a AND b AND c:2", [(1.0, "a "), (1.0, " b "), (2.0, " c")]),
    ("16:9 photo AND b", [(1.0, "16:9 photo "), (1.0, " b")]),
    ("(a:1.3) AND [b:c:0.5]", [(1.0, "a "), (1.0, " b")]),
]


@pytest.mark.parametrize(("text", "expected"), AND)
def test_and_composes_prompts_with_weights(text, expected):
    plan = parse_prompt(text, 10)
    assert [(part.weight, part.at(0).text) for part in plan.parts] == expected
    assert plan.warnings == ()


WRONG = [
    ("(a:nan)", [("a:nan", 1.1)], "'nan' is not a number"),
    ("(a:inf)", [("a:inf", 1.1)], "'inf' is not a number"),
    ("(a:1e9)", [("a:1e9", 1.1)], "'1e9' is not a number"),
    ("(a:1,3)", [("a:1,3", 1.1)], "'1,3' is not a number"),
    ("[a:b:nan]", [("a:b:nan", 0.9091)], "'nan' is not a number"),
    ("[a:b:c:5]", [("a:b:c:5", 0.9091)], "more than two colons"),
    ("(a:50)", [("a", 10.0)], "limited"),
    ("(((a:9):9):9)", [("a", 10.0)], "limited"),
    ("(a:" + "9" * 400 + ")", [("a", 10.0)], "limited"),
    ("x (a", [("x ", 1.0), ("a", 1.1)], "A ( is never closed"),
    ("x [a:b:0.5", [("x ", 1.0), ("a:b:0.5", 0.9091)], "A [ is never closed"),
    ("(a [b) c", [("a ", 1.1), ("b c", 1.0)], "A [ is never closed"),
    ("a) b", [("a) b", 1.0)], "closes nothing"),
    ("(a] b)", [("a] b", 1.1)], "closes nothing"),
    ("fox <lora:sketch:0.8>", [("fox ", 1.0)], "<lora:sketch:0.8> has no effect"),
    ("<LYCO:x:te=1:unet=0> fox", [(" fox", 1.0)], "has no effect"),
    ("(a AND b)", [("a AND b", 1.1)], "ordinary word"),
    ("a AND ", [("a ", 1.0)], "empty"),
    ("AND", [], None),
    ("a\x00b\x1b", [("ab", 1.0)], "no text"),
    ("a \ud800 b", [("a \ufffd b", 1.0)], "no text"),
    ("\ud83e\udd8a", [("\U0001f98a", 1.0)], "no text"),
]


@pytest.mark.parametrize(("text", "expected", "warning"), WRONG)
def test_what_is_written_wrongly_is_read_as_text_with_a_warning(text, expected, warning):
    plan = parse_prompt(text, 10)
    assert pieces(text) == expected
    assert len(plan.parts) == 1
    assert warning is None or any(warning in sentence for sentence in plan.warnings)


def test_an_unclosed_bracket_ends_with_its_and_part():
    plan = parse_prompt("(a AND b", 10)
    assert [part.at(0).chunks for part in plan.parts] == [((Piece("a ", 1.1),),), ((Piece(" b", 1.0),),)]
    assert len(parse_prompt("([a) AND b]", 10).parts) == 2


def test_and_is_a_word_where_prompts_cannot_be_joined():
    plan = parse_prompt("a AND b", 10, compose=False)
    assert [part.at(0).text for part in plan.parts] == ["a AND b"]
    assert "ordinary word" in plan.warnings[0]


def test_many_ands_are_limited_with_a_warning():
    plan = parse_prompt(" AND ".join("abcdefghijklmnopqrstuvwxyz"), 10)
    assert len(plan.parts) == MAX_PARTS
    assert "26" in plan.warnings[0]


def test_repeated_mistakes_are_one_warning_with_a_count():
    assert parse_prompt("(" * 1000, 10).warnings == ("A ( is never closed; it acts to the end. (1000 times)",)


def test_alternation_and_schedules_never_make_more_prompts_than_steps():
    text = "".join(f"[{'|'.join('abcdefghijk'[:n])}][x:y:{n}]" for n in range(2, 12)) * 50
    plan = parse_prompt(text, 20)
    assert len(plan.prompts) <= 20
    two = parse_prompt("[a|b]" * 100, 20)
    assert len(two.prompts) == 2
    assert two.parts[0].schedule[0][1] is two.parts[0].schedule[2][1]


def test_later_steps_than_planned_get_the_last_prompt():
    part = parse_prompt("[a:b:0.5]", 4).parts[0]
    assert [part.at(step).text for step in (0, 1, 2, 3, 4, 99)] == ["a", "a", "b", "b", "b", "b"]


def test_schedules_of_several_encoders_merge():
    first = parse_prompt("[a:b:2]", 10).parts[0].schedule
    second = parse_prompt("[c:d:5]", 10).parts[0].schedule
    merged = [(until, *(prompt.text for prompt in prompts)) for until, prompts in merge_schedules(first, second)]
    assert merged == [(2, "a", "c"), (5, "b", "c"), (10, "b", "d")]


def test_prompts_are_cache_keys():
    same = {parse_prompt("a (b:1.2)", steps).parts[0].at(0) for steps in (1, 10, 20)}
    assert len(same) == 1
    assert ParsedPrompt(((),)).text == ""


BRACKETS = {
    "open": "(" * 100_000,
    "open square": "[" * 100_000,
    "closing": ")" * 100_000,
    "pairs": "()" * 50_000,
    "nested": "(" * 50_000 + ")" * 50_000,
    "nested around a word": "(" * 50_000 + "x" + ")" * 50_000,
    "nested square around a word": "[" * 50_000 + "x" + "]" * 50_000,
    "around a word each": "(x)" * 33_333,
    "crossed": "([)]" * 25_000,
    "mixed": "".join(random.Random(7).choices("()[]", k=100_000)),
    "mixed with words": "".join(random.Random(7).choices("()[]x", k=100_000)),
}
#: What the machine on which the parser was measured does in 0.1 s of CPU time; slower ones take longer for both.
TENTH_OF_A_SECOND = 3_000_000


@pytest.fixture(scope="module")
def tenth_of_a_second() -> float:
    return seconds(lambda: [turn for turn in range(TENTH_OF_A_SECOND)])  # noqa: C416  # the turns are the point


@pytest.mark.parametrize("text", BRACKETS.values(), ids=BRACKETS.keys())
def test_100000_characters_of_brackets_are_read_in_under_a_tenth_of_a_second(tenth_of_a_second, text):
    assert seconds(lambda: parse_prompt(text, 28)) < tenth_of_a_second


def test_a_prompt_that_differs_at_every_step_is_kept_as_far_as_encoders_read():
    marks = "".join(random.Random(7).choices("()[]x: ,|", k=100_000))
    prompts = parse_prompt(marks, 28).prompts
    assert len(prompts) == 28
    for prompt in prompts:
        pieces = [piece for chunk in prompt.chunks for piece in chunk if not piece.text.isspace()]
        assert len(pieces) == MAX_TOKENS + 1  # one more, so that the length note knows where the unread text begins


@pytest.mark.parametrize("unit", ["(a:", "[a|", "[a:b:1]", "(a)[b|c]", "<lora:", "BREAK ", ":", "|", "\\", "((( AND "])
def test_parsing_takes_linear_time(unit):
    long = unit * (20_000 // len(unit))
    short = unit * (2_000 // len(unit))
    assert seconds(lambda: parse_prompt(long, 3)) < 30 * seconds(lambda: parse_prompt(short, 3)) + 0.05


def seconds(run, runs: int = 3) -> float:
    """CPU seconds without the collector, as timeit counts: the best of some runs."""
    return min(timeit.repeat(run, timer=time.process_time, repeat=runs, number=1))


MARKS = st.sampled_from(
    ["(", ")", "[", "]", ":", "|", "\\", " AND ", " BREAK ", "<lora:a:1>", "0.5", "1.3", "nan", "a"]
)
PROMPTS = st.one_of(
    st.text(st.characters(codec=None, exclude_categories=())), st.lists(MARKS | st.text(max_size=3)).map("".join)
)


@settings(max_examples=150, deadline=None)
@given(PROMPTS, st.integers(1, 40), st.booleans())
def test_parsing_never_raises_and_gives_whole_schedules(text, steps, compose):
    plan = parse_prompt(text, steps, compose=compose)
    assert 1 <= len(plan.parts) <= MAX_PARTS
    for part in plan.parts:
        assert abs(part.weight) <= MAX_WEIGHT
        untils = [until for until, _ in part.schedule]
        assert untils == sorted(set(untils))
        assert untils[-1] == steps
        for _, prompt in part.schedule:
            assert prompt.chunks
            prompt.text.encode("utf-8")
            assert all(piece.text and abs(piece.weight) <= MAX_WEIGHT for chunk in prompt.chunks for piece in chunk)


@settings(max_examples=80, deadline=None)
@given(st.text(st.characters(codec=None, exclude_categories=(), exclude_characters="()[]:|\\<")))
def test_text_without_marks_comes_out_as_it_went_in(text):
    if "BREAK" in text or "AND" in text:
        return
    expected = clean_text(text)
    assert parse_prompt(text, 10).parts[0].at(0).text == expected


@settings(max_examples=80, deadline=None)
@given(st.text(st.characters(codec="utf-8"), min_size=1))
def test_escaped_text_is_literal(text):
    cleaned = clean_text(text)
    if "BREAK" in cleaned or "AND" in cleaned:
        return
    escaped = "".join("\\" + sign if sign in "()[]:|\\<>" else sign for sign in cleaned)
    plan = parse_prompt(escaped, 10)
    assert plan.parts[0].at(0).text == cleaned
    assert plan.warnings == ()
