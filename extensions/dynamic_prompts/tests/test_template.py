"""From templates to texts: syntax, weights, all combinations, and what hostile prompts cost."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from random import Random

import pytest

from backend.errors import BadRequest
from extensions.dynamic_prompts.template import MAX_NESTING, Literal, drawn, enumerated, read_template
from extensions.dynamic_prompts.wildcards import Wildcards


@pytest.fixture
def wildcards(tmp_path: Path) -> Wildcards:
    files = {
        "colour": "# colours\nred\n\ngreen\n2::blue\n",
        "sea/fish": "cod\n{big|small} eel",
        "sea/crab": "crab",
        "outer": "__colour__ __sea/*__",
        "loop": "a __pool__",
        "pool": "b __loop__",
        "empty": "# nothing\n",
        "bomb0": "x",
    }
    files |= {f"bomb{n}": f"__bomb{n - 1}__ __bomb{n - 1}__" for n in range(1, 61)}
    for name, text in files.items():
        path = tmp_path / f"{name}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return Wildcards(tmp_path)


def texts(template: str, wildcards: Wildcards) -> list[str]:
    tree = read_template(template, wildcards.find)
    assert tree.count < 1000
    return [enumerated(tree, number) for number in range(tree.count)]


@pytest.mark.parametrize(("template", "expected"), [
    ("a fox", ["a fox"]),
    ("a {red|green} fox", ["a red fox", "a green fox"]),
    ("{a|{b|c}}{1|2}", ["a1", "a2", "b1", "b2", "c1", "c2"]),
    ("{2$$a|b|c}", ["a, b", "a, c", "b, c"]),
    ("{1-2$$ and $$a|b}", ["a", "b", "a and b"]),
    ("{0-1$$a}b", ["b", "ab"]),
    ("{-2$$a|b}", ["a", "b", "a, b"]),
    ("{2-$$ $$a|b|c}", ["a b", "a c", "b c", "a b c"]),
    ("{9$$a|b}", ["a, b"]),
    ("{2$$+$$__colour__}", ["red+green", "red+blue", "green+blue"]),
    ("{0.5::a|b|0::c}", ["a", "b"]),
    ("{|a}", ["", "a"]),
    ("__COLOUR__ x", ["red x", "green x", "blue x"]),
    ("__sea/*__", ["crab", "cod", "big eel", "small eel"]),
    ("__sea/f?sh__", ["cod", "big eel", "small eel"]),
    ("<lora:{a|b}:0.5>", ["<lora:a:0.5>", "<lora:b:0.5>"]),
    ("{[a|b]|(c:1.2)}", ["[a|b]", "(c:1.2)"]),
    ("{a|[b} [c|d]", ["a [c|d]", "[b [c|d]"]),
    ("[a:{b|c}:0.5] AND d BREAK", ["[a:b:0.5] AND d BREAK", "[a:c:0.5] AND d BREAK"]),
    (r"\{a|b\} {c|d\|e}", [r"\{a|b\} c", r"\{a|b\} d\|e"]),
    (r"\__colour__", [r"\__colour__"]),
    ("my__thing__x <lora:no__such__:1>", ["my__thing__x <lora:no__such__:1>"]),
    ("a #1 // no comment, costs $5 {x|y}", ["a #1 // no comment, costs $5 x", "a #1 // no comment, costs $5 y"]),
    ("} {a|b} {", [r"\} a \{", r"\} b \{"]),
    ("{} {a} ____", [r"\{\} a ____"]),
    ("__outer__", [f"{c} {f}" for c in ("red", "green", "blue") for f in ("crab", "cod", "big eel", "small eel")]),
])  # fmt: skip
def test_a_template_stands_for_these_texts(wildcards, template, expected):
    assert texts(template, wildcards) == expected


@pytest.mark.parametrize("template", ["{a|{b|c}} {2$$x|y|z} __outer__ {2$$__colour__} } {", r"\{ {a|b\}}"])
def test_a_filled_text_has_nothing_more_to_be_filled_in(wildcards, template):
    for number in range(20):
        text = drawn(read_template(template, wildcards.find), Random(number))
        assert isinstance(read_template(text, wildcards.find), Literal)
        assert drawn(read_template(text, wildcards.find), Random(1)) == text


def test_the_same_seed_draws_the_same_and_weights_count(wildcards):
    tree = read_template("__colour__ {3::a|b} {2$$x|y|z}", wildcards.find)
    seen = [drawn(tree, Random(n)) for n in range(2000)]
    assert seen == [drawn(tree, Random(n)) for n in range(2000)]
    counts = Counter(word for text in seen for word in text.replace(",", "").split())
    assert counts["blue"] == pytest.approx(1000, rel=0.1)
    assert counts["a"] == pytest.approx(1500, rel=0.1)
    assert counts["x"] + counts["y"] + counts["z"] == 4000
    assert {text.split(" ", 2)[2] for text in seen} == {"x, y", "y, x", "x, z", "z, x", "y, z", "z, y"}


@pytest.mark.parametrize(("template", "words"), [
    ("__colur__", "Did you mean 'colour'"),
    ("__../secret__", "not known"),
    ("__loop__", "circle: loop > pool > loop"),
    ("__empty__", "has no line"),
    ("{0::a|0::b}", "weight"),
    ("{3-2$$a|b}", "cannot be picked"),
    ("{500$$a|b}", "cannot be picked"),
    ("${x=a}", "variables"),
    ("{a|" * MAX_NESTING + "b" + "}" * MAX_NESTING, "nested"),
    ("{a|" * 5000 + "b" + "}" * 5000, "nested"),
])  # fmt: skip
def test_what_cannot_be_filled_in_is_a_sentence(wildcards, template, words):
    with pytest.raises(BadRequest, match=words):
        read_template(template, wildcards.find)


def test_wildcards_that_double_each_other_end_with_a_sentence(wildcards):
    for number in range(30, 61, 5):  # a tree that was read from below, too
        read_template(f"__bomb{number % 40}__", wildcards.find)
    tree = read_template("__bomb30__", wildcards.find)
    with pytest.raises(BadRequest, match="100,000 characters"):
        drawn(tree, Random(1))
    with pytest.raises(BadRequest, match="deep"):
        read_template("".join(f"__bomb{number}__ " for number in range(61)), Wildcards(wildcards.folder).find)


@pytest.mark.parametrize("template", [
    "{" * 10_000, "}" * 10_000, "{}" * 10_000, "{[" * 10_000, "[|" * 10_000, "__" * 10_000, "__a_" * 10_000,
    "<a:" * 10_000 + "__x__", "\\" * 10_001, "{a|b}" * 10_000, "{1-" * 5_000, "{1$$" * 30, "a" * 90_000 + "__",
    "{a|b|c|d|e|f|g}" * 5_000, "{5-9$$" + "|".join("ab" * 500) + "}",
])  # fmt: skip
def test_hostile_prompts_cost_little(wildcards, template):
    started = time.process_time()
    try:
        tree = read_template(template, wildcards.find)
    except BadRequest:
        pass
    else:
        drawn(tree, Random(1))
        enumerated(tree, tree.count - 1)
    assert time.process_time() - started < 2.0
