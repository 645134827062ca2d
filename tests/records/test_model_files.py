"""What each file is, whether it can be used where it lies, and a sentence for each that cannot."""

from __future__ import annotations

import json
import os
import sys

import pytest

from backend.formats.configs import CheckpointInfo, OtherFile, VaeInfo
from backend.records.model_files import ModelFiles
from tests.formats.files import keys, put_published, write_sparse

SD3 = "sd3_medium_incl_clips_t5xxl"


def by_name(files):
    return {entry.name: entry for entry in files.models()}


def test_each_file_is_listed_as_what_it_is(models):
    put_published(models, "checkpoints/xl.safetensors")
    put_published(models, "checkpoints/deep/er/sd3.safetensors", SD3)
    put_published(models, "vae/v.safetensors", "sdxl_vae")
    found = by_name(ModelFiles(models))
    assert list(found) == ["deep/er/sd3", "xl", "v"]
    assert isinstance(found["xl"].info, CheckpointInfo)
    assert found["deep/er/sd3"].info.family == "sd3"
    assert isinstance(found["v"].info, VaeInfo)
    assert all(entry.usable and not entry.sentence and entry.error is None for entry in found.values())


def test_what_cannot_be_used_is_listed_with_its_sentence(models):
    (models / "checkpoints" / "page.safetensors").write_bytes(b"<!doctype html><html></html>")
    (models / "checkpoints" / "old.ckpt").write_bytes(b"PK\x03\x04" + b"\0" * 60)
    (models / "checkpoints" / "empty.safetensors").write_bytes(b"")
    write_sparse(models / "checkpoints" / "odd.safetensors", keys("a.b", "c.d"))
    put_published(models, "checkpoints/vae-here.safetensors", "sdxl_vae")
    put_published(models, "vae/checkpoint-here.safetensors")
    put_published(models, "checkpoints/no-text.safetensors", "sd35_medium")
    (models / "checkpoints" / "note.txt").write_text("not a model")
    files = ModelFiles(models)
    found = by_name(files)
    assert len(found) == 7
    for entry in found.values():
        assert not entry.usable
        assert len(entry.sentence) > 10
        assert str(models) not in entry.sentence
    assert "web page" in found["page"].sentence
    assert found["vae-here"].sentence == "This is a VAE; it belongs in models/vae."
    assert "belongs in models/checkpoints" in found["checkpoint-here"].sentence
    assert isinstance(found["odd"].info, OtherFile)


@pytest.mark.parametrize(
    "name",
    ["Big-Model", "big-model.safetensors", "sub/Big-Model", "sub\\Big-Model", "sub/big-model.safetensors"],
)
def test_a_model_is_found_by_name_file_name_or_stem(models, name):
    put_published(models, "checkpoints/sub/Big-Model.safetensors")
    assert ModelFiles(models).find(name).name == "sub/Big-Model"


def test_a_usable_file_wins_over_a_broken_one_of_the_same_stem(models):
    (models / "checkpoints" / "m.ckpt").write_bytes(b"\x80\x04junk" * 9)
    put_published(models, "checkpoints/m.safetensors")
    assert ModelFiles(models).find("m").usable


@pytest.mark.skipif(sys.platform != "linux", reason="names of any bytes")
def test_a_name_that_cannot_be_written_is_listed_as_unusable(models):
    put_published(models, "checkpoints/a.safetensors").rename(
        os.fsdecode(os.fsencode(models / "checkpoints") + b"/bad\xff.safetensors")
    )
    (entry,) = ModelFiles(models).models()
    assert (entry.name, entry.usable) == ("bad?", False)
    json.dumps([entry.name, entry.sentence], ensure_ascii=False).encode()


def test_a_missing_models_folder_is_an_empty_list(tmp_path):
    assert ModelFiles(tmp_path / "none").models() == []


def test_a_file_is_found_by_its_hash_once_that_is_known(models, tmp_path):
    write_sparse(models / "checkpoints" / "odd.safetensors", keys("a.b"))
    path = put_published(models, "checkpoints/renamed.safetensors")
    files = ModelFiles(models, hashes=tmp_path / "hashes.json")
    (tmp_path / "hashes.json").write_text(
        json.dumps({str(path): {"size": path.stat().st_size, "mtime_ns": path.stat().st_mtime_ns, "sha256": "ab" * 32}})
    )
    files.look()
    assert files.by_hash("ABABABABAB").name == "renamed"
    assert files.by_hash("abab") is None
    assert files.by_hash("0123456789") is None
