"""The sha256 of model files, in A1111's ten digits, computed once and remembered."""

from __future__ import annotations

import hashlib

import pytest

from backend.errors import NotFound
from backend.records.hashes import ModelHashes
from backend.records.model_files import ModelFiles


def test_the_model_hash_is_ten_digits_of_sha256_and_remembered(tmp_path):
    path = tmp_path / "m.safetensors"
    path.write_bytes(b"weights")
    cache = tmp_path / "data" / "hashes.json"
    files = ModelFiles(tmp_path, hashes=cache)
    expected = hashlib.sha256(b"weights").hexdigest()[:10]
    assert ModelHashes(cache).known(path) is None
    assert files.model_hash(path) == expected
    assert ModelHashes(cache).known(path) == expected
    path.write_bytes(b"other weights")
    assert ModelHashes(cache).known(path) is None
    assert files.model_hash(path) == hashlib.sha256(b"other weights").hexdigest()[:10]
    with pytest.raises(NotFound):
        files.model_hash(tmp_path / "gone")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'{"x": 1}'])
def test_a_broken_hash_cache_is_only_slower(tmp_path, content):
    path, cache = tmp_path / "m", tmp_path / "hashes.json"
    path.write_bytes(b"weights")
    cache.write_bytes(content)
    assert ModelHashes(cache).get(path) == hashlib.sha256(b"weights").hexdigest()[:10]


def test_hashes_work_where_nothing_can_be_written(tmp_path):
    (tmp_path / "file").write_bytes(b"weights")
    hashes = ModelHashes(tmp_path / "file" / "hashes.json")
    assert hashes.get(tmp_path / "file") == hashlib.sha256(b"weights").hexdigest()[:10]
