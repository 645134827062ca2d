"""What headers told is remembered on disk, and never believed when file, rules or cache are other ones."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import pytest

from backend.errors import ModelCorrupt
from backend.formats.configs import OtherFile
from backend.formats.detect import detect
from backend.formats.reader import read_header
from backend.records.plain import from_text, to_text
from backend.records.readings import Readings, Stamp, rules_version
from tests.formats.files import HEADERS, published, write_sparse

STAMP = Stamp(10, 20, 0)
LORA = OtherFile(kind="LoRA", belongs_in="loras", sentence="A LoRA.", path=Path("/x/a.safetensors"), name="a")


@pytest.mark.parametrize("name", sorted(path.name.removesuffix(".tsv.gz") for path in HEADERS.glob("*.tsv.gz")))
def test_every_published_file_comes_back_from_text_as_it_was(name, tmp_path):
    info = detect(read_header(write_sparse(tmp_path / "m.safetensors", published(name))))
    assert from_text(to_text(info)) == info


def test_errors_come_back_with_code_words_and_field():
    error = from_text(to_text(ModelCorrupt("It is cut.", "Again.", field="checkpoint")))
    assert (type(error), error.what, error.todo, error.field) == (ModelCorrupt, "It is cut.", "Again.", "checkpoint")


@pytest.mark.parametrize(
    "text",
    ["", "[", "[1]", "{}", "7", '{"@class": "os:system"}',
     '{"@class": "configs:Path", "x": 1}', '{"@class": "configs:OtherFile"}',
     '{"@error": "difflib"}', '{"@class": "configs:Gone", "kind": "x"}'],
)  # fmt: skip
def test_a_damaged_text_is_a_value_error(text):
    with pytest.raises(ValueError):
        from_text(text)


def test_a_reading_counts_while_stamp_and_rules_are_the_same(tmp_path):
    file = tmp_path / "models.sqlite"
    Readings(file).put({"/x/a.safetensors": (STAMP, LORA)})
    assert Readings(file).get("/x/a.safetensors", STAMP) == LORA
    for field in STAMP._fields:
        assert Readings(file).get("/x/a.safetensors", STAMP._replace(**{field: 7})) is None
    assert Readings(file, rules="newer").get("/x/a.safetensors", STAMP) is None
    assert Readings(file).get("/x/a.safetensors", STAMP) is None  # thrown away, not kept beside the new ones


def test_the_rules_version_is_of_the_code_itself():
    assert len(rules_version()) == 16
    assert rules_version() == rules_version()


@pytest.mark.parametrize("content", [b"", b"not a database at all, but long enough to be one" * 90])
def test_a_damaged_cache_is_thrown_away_with_a_line_in_the_log(tmp_path, content, caplog):
    file = tmp_path / "models.sqlite"
    file.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert Readings(file).get("/x/a.safetensors", STAMP) is None
    assert ("damaged" in caplog.text) == bool(content)
    Readings(file).put({"/x/a.safetensors": (STAMP, LORA)})
    assert Readings(file).get("/x/a.safetensors", STAMP) == LORA


def test_where_nothing_can_be_written_it_remembers_in_memory(tmp_path, caplog):
    (tmp_path / "file").write_bytes(b"")
    readings = Readings(tmp_path / "file" / "models.sqlite")
    readings.put({"/x/a.safetensors": (STAMP, LORA)})
    assert readings.get("/x/a.safetensors", STAMP) == LORA
    assert "not remembered" in caplog.text


def test_the_page_and_the_engine_may_write_at_once(tmp_path):
    file = tmp_path / "models.sqlite"
    one, two = Readings(file), Readings(file)
    one.put({"/a": (STAMP, LORA)})
    two.put({"/b": (STAMP, dataclasses.replace(LORA, name="b"))})
    assert {Readings(file).get(path, STAMP).name for path in ("/a", "/b")} == {"a", "b"}
