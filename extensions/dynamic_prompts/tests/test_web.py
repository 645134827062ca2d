"""What the page is told of wildcards while one types."""

from __future__ import annotations

import pytest

from extensions.dynamic_prompts.web import Finder


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "sea").mkdir()
    (tmp_path / "sea" / "fish.txt").write_text("cod\nray\n")
    (tmp_path / "fishing.txt").write_text("\n".join(f"line {number}" for number in range(10_000)))
    (tmp_path / "Animal.txt").write_text("# a comment\n\n  cat \n3::{big|small} dog\n")
    (tmp_path / "empty.txt").write_text("")
    return tmp_path


def found(finder, typed, most=8):
    return [(word.text, word.fact) for word in finder(typed, most)]


def test_names_that_begin_so_come_first_with_their_first_lines(folder):
    finder = Finder(folder)
    lines = "line 0, line 1, line 2, line 3, line 4"
    assert found(finder, "fish") == [("fishing", lines), ("sea/fish", "cod, ray")]
    assert found(finder, "SEA/") == [("sea/fish", "cod, ray")]
    assert found(finder, "ani") == [("animal", "cat, 3::{big|small} dog")]
    assert [name for name, _ in found(finder, "")] == ["animal", "empty", "fishing", "sea/fish"]
    assert len(found(finder, "", 2)) == 2
    assert found(finder, "nothing") == []


def test_a_folder_or_file_that_is_gone_offers_nothing(folder, tmp_path):
    finder = Finder(folder)
    assert found(finder, "ani")
    (folder / "Animal.txt").unlink()
    assert found(finder, "ani") == [("animal", "")]  # the list is good for a moment
    assert found(Finder(tmp_path / "none"), "") == []
