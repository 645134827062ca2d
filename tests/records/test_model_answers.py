"""What a person answered about a file counts at once, by its stamp, and by its hash as soon as that is known."""

from __future__ import annotations

import json
import os
import shutil

import pytest

from backend.errors import BadRequest
from backend.records.answers import ModelAnswers
from backend.records.model_files import ModelFiles
from backend.records.readings import Stamp
from tests.formats.files import published, write_sparse

LARGE = "sd35_large"
STAMP = Stamp(10, 20)


@pytest.fixture
def models(tmp_path):
    folder = tmp_path / "models" / "checkpoints"
    folder.mkdir(parents=True)
    write_sparse(folder / "big.safetensors", published(LARGE))
    return tmp_path / "models"


def files_of(models):
    data = models.parent
    return ModelFiles(
        models, hashes=data / "hashes.json", answers=data / "answers.json", readings=data / "models.sqlite"
    )


def variant(files, name="big"):
    return files.find(name).info.variant


def remember_hash(models, path, sha256):
    status = path.stat()
    cache = models.parent / "hashes.json"
    told = json.loads(cache.read_text()) if cache.exists() else {}
    told[str(path)] = {"size": status.st_size, "mtime_ns": status.st_mtime_ns, "sha256": sha256}
    cache.write_text(json.dumps(told))


def test_an_answer_counts_at_once_in_both_processes_and_can_be_changed(models):
    page, engine = files_of(models), files_of(models)
    (question,) = page.find("big").info.questions
    other = next(option for option in question.options if option != question.assumed)
    assert variant(engine) == question.assumed
    version = page.version
    page.answer(page.find("big"), question.about, other)
    assert page.version > version
    assert variant(page) == variant(engine) == variant(files_of(models)) == other
    assert page.find("big").answers == {question.about: other}
    page.answer(page.find("big"), question.about, question.assumed)
    assert variant(page) == variant(engine) == question.assumed


@pytest.mark.parametrize("sha256", [None, "ab" * 32])
def test_an_answer_can_be_taken_back(models, sha256):
    files = files_of(models)
    (question,) = files.find("big").info.questions
    other = next(option for option in question.options if option != question.assumed)
    if sha256:
        remember_hash(models, models / "checkpoints" / "big.safetensors", sha256)
    files.answer(files.find("big"), question.about, other)
    files.answer(files.find("big"), question.about, None)
    entry = files.find("big")
    assert (entry.answers, entry.info.variant, entry.info.questions) == ({}, question.assumed, (question,))
    assert json.loads((models.parent / "answers.json").read_text()) == {"by_sha256": {}, "by_file": {}}


def test_an_answer_follows_the_file_by_its_hash(models):
    files = files_of(models)
    (question,) = files.find("big").info.questions
    other = next(option for option in question.options if option != question.assumed)
    path = models / "checkpoints" / "big.safetensors"
    files.answer(files.find("big"), question.about, other)
    remember_hash(models, path, "ab" * 32)
    files.settle_answers()
    told = json.loads((models.parent / "answers.json").read_text())
    assert told == {"by_sha256": {"ab" * 32: {question.about: other}}, "by_file": {}}

    moved = models / "checkpoints" / "moved.safetensors"
    shutil.move(path, moved)
    os.utime(moved, (1e9, 1e9))
    assert variant(files, "moved") == question.assumed  # nobody knows yet that it is the same
    remember_hash(models, moved, "ab" * 32)
    fresh = files_of(models)
    assert variant(fresh, "moved") == other


def test_a_file_that_changed_is_asked_about_anew(models):
    files = files_of(models)
    (question,) = files.find("big").info.questions
    other = next(option for option in question.options if option != question.assumed)
    files.answer(files.find("big"), question.about, other)
    os.utime(models / "checkpoints" / "big.safetensors", (1e9, 1e9))
    assert variant(files) == question.assumed


@pytest.mark.parametrize(
    ("about", "answer"), [("nonsense", "x"), ("variant", "nonsense"), ("", ""), ("nonsense", None)]
)
def test_an_answer_that_nobody_asked_for_is_refused(models, about, answer):
    files = files_of(models)
    with pytest.raises(BadRequest):
        files.answer(files.find("big"), about, answer)
    assert not (models.parent / "answers.json").exists()


def test_a_damaged_file_is_set_aside_not_overwritten(tmp_path):
    file = tmp_path / "answers.json"
    file.write_text('{"by_sha256": {"ab": {"variant": "x"}}')
    answers = ModelAnswers(file)
    assert answers.of("/m", STAMP, None) == {}
    answers.set("/m", STAMP, None, "variant", "y")
    assert answers.of("/m", STAMP, None) == {"variant": "y"}
    assert "ab" in (tmp_path / "answers.json.damaged").read_text()


def test_without_a_file_answers_stay_in_memory():
    answers = ModelAnswers(None)
    before = answers.version
    answers.set("/m", STAMP, None, "variant", "y")
    assert answers.version != before
    assert answers.of("/m", STAMP, None) == {"variant": "y"}
    assert answers.of("/m", Stamp(11, 20), None) == {}
