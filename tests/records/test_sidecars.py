"""Notes beside model files: what A1111 and others keep there, as plain text of a bounded length."""

from __future__ import annotations

import json

import pytest

from backend.records.sidecars import MAX_FILE, MAX_TEXT, hint_of, notes_of


def told(tmp_path, value, name="m.json"):
    path = tmp_path / name
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return str(path)


def test_a1111s_user_metadata_is_told_by_its_labels(tmp_path):
    value = {"description": "Soft light", "activation text": "mystyle", "preferred weight": 0.8, "negative text": "",
             "notes": "two\n\n  lines", "sd version": "SDXL", "unknown": 1}  # fmt: skip
    assert [tuple(note) for note in notes_of([told(tmp_path, value)])] == [
        ("Description", "Soft light"), ("Activation text", "mystyle"), ("Preferred weight", "0.8"),
        ("Made for", "SDXL"), ("Notes", "two\nlines"),
    ]  # fmt: skip


def test_civitais_answer_is_told_without_its_html(tmp_path):
    value = {"name": "v2", "model": {"name": "Fox"}, "trainedWords": ["fox", "red fur"], "baseModel": "SDXL 1.0",
             "description": "<p>A <b>fox</b>.</p><script>alert(1)</script><p>Use 0.7 &lt; w</p>"}  # fmt: skip
    notes = dict(notes_of([told(tmp_path, value, "m.civitai.info")]))
    assert notes["Description"] == "A fox.alert(1)\nUse 0.7 < w"
    assert notes["Activation text"] == "fox, red fur"
    assert notes["Model"] == "Fox"


@pytest.mark.parametrize(
    "value",
    ["", "[", "[1]", "null", '{"description": {"a": 1}}', '{"description": true}', '{"model": 7}', "[" * 100_000,
     '{"description": "' + "x" * MAX_FILE + '"}'],
)  # fmt: skip
def test_what_is_no_note_tells_nothing(tmp_path, value):
    assert notes_of([told(tmp_path, value), str(tmp_path / "gone.json")]) == []


def test_a_note_is_cut_and_can_be_sent_as_utf_8(tmp_path):
    (note,) = notes_of([told(tmp_path, {"notes": "\ud800" + "x" * 2 * MAX_TEXT})])
    assert len(note.text) == MAX_TEXT
    note.text.encode()


def test_the_yaml_beside_a_file_is_found(tmp_path):
    model = tmp_path / "m.safetensors"
    assert hint_of(model) is None
    model.with_suffix(".yaml").write_text("model: {}")
    assert hint_of(model) == tmp_path / "m.yaml"
