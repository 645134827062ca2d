"""A header is read only when it can harm nobody; every refusal is a sentence."""

from __future__ import annotations

import json
import os
import sys
import time

import pytest

from backend.errors import ModelCorrupt, ModelUnsafe, ModelUnsupported, NotFound, UserError
from backend.formats.reader import MAX_KEYS, TensorInfo, read_header
from tests.formats.files import keys, published, write_raw, write_sparse


def entry(dtype="F16", shape=(2, 3), offsets=(0, 12)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def refusal(path) -> UserError:
    with pytest.raises(UserError) as caught:
        read_header(path)
    assert 10 <= len(str(caught.value)) <= 400
    assert str(path.parent) not in str(caught.value)
    return caught.value


def refused(tmp_path, header, hole=12, **options) -> UserError:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return refusal(write_raw(tmp_path / "model.safetensors", raw, hole=hole, **options))


def test_header_tells_tensors_metadata_and_size(tmp_path):
    path = write_sparse(tmp_path / "a.safetensors", {"w": ("F16", [2, 3]), "n": ("I64", [])}, {"k": "v"})
    header = read_header(path)
    assert header.tensors == {"w": TensorInfo("F16", (2, 3)), "n": TensorInfo("I64", ())}
    assert header.metadata == {"k": "v"}
    assert header.file_bytes == path.stat().st_size
    assert header.tensors["w"].bytes == 12


def test_header_padded_with_spaces_is_read(tmp_path):
    raw = json.dumps({"w": entry()}, indent=2).encode() + b"   \n"
    assert set(read_header(write_raw(tmp_path / "a.safetensors", raw, hole=12)).tensors) == {"w"}


def test_empty_marker_tensors_are_read(tmp_path):
    path = write_sparse(tmp_path / "a.safetensors", {"w": ("F16", [2]), "v_pred": ("F32", [0])})
    assert read_header(path).tensors["v_pred"].shape == (0,)


def test_sixteen_gigabyte_file_is_read_in_milliseconds(tmp_path):
    path = write_sparse(tmp_path / "big.safetensors", published("sd35_large"))
    begin = time.perf_counter()
    assert len(read_header(path).tensors) == 1167
    assert time.perf_counter() - begin < 0.5  # 10 ms on an idle core


@pytest.mark.parametrize(
    ("content", "error", "words"),
    [
        (b"", ModelCorrupt, "empty"),
        (b"abc", ModelCorrupt, "no header"),
        (b"\n <!DOCTYPE html><html><body>Sign in</body></html>", ModelCorrupt, "web page"),
        (b"<html><head></head></html>", ModelCorrupt, "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", ModelCorrupt, "git-lfs pointer"),
        (b"PK\x03\x04\x14\x00\x00\x00\x08\x00archive/data.pkl", ModelUnsafe, "zip archive"),
        (b"\x80\x02}q\x00X\x0a\x00\x00\x00state_dictq\x01", ModelUnsafe, "pickle"),
        (b"\x80\x04\x95\x0a\x00\x00\x00\x00\x00\x00\x00}\x94.", ModelUnsafe, "pickle"),
        (b"GGUF\x01\x00\x00\x00" + bytes(64), ModelUnsupported, "GGUF"),
        (b"\x89PNG\r\n\x1a\n" + bytes(64), ModelCorrupt, "picture"),
        (b'{"error": "Invalid username or password."}', ModelCorrupt, "JSON"),
        (bytes(4096), ModelCorrupt, "no header"),
        (bytes(range(256)) * 16, ModelCorrupt, "no header"),
    ],
)
def test_foreign_files_are_named(tmp_path, content, error, words):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    caught = refusal(path)
    assert type(caught) is error
    assert words in caught.what


def test_cut_download_says_how_many_bytes_are_missing(tmp_path):
    path = write_sparse(tmp_path / "a.safetensors", {"w": ("F16", [1000, 1000])})
    os.truncate(path, path.stat().st_size - 123_456)
    caught = refusal(path)
    assert isinstance(caught, ModelCorrupt)
    assert "123,456 of its 2,000,000 bytes" in caught.what


def test_cut_header_says_so(tmp_path):
    path = write_sparse(tmp_path / "a.safetensors", published("sdxl_vae"))
    os.truncate(path, 1000)
    assert "header alone" in refusal(path).what


def test_header_beyond_the_bound_is_refused_unread(tmp_path):
    caught = refused(tmp_path, {"w": entry()}, length=100_000_001, hole=200_000_000)
    assert isinstance(caught, ModelUnsafe)
    assert "100,000,001" in caught.what


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ({}, "no tensors"),
        ({"__metadata__": {"a": "b"}}, "no tensors"),
        (b'{"w": {"dtype": "F16", "shape": [2, 3], "data_offsets": [0, 12]}', "not valid"),
        (b'{"w": {"dtype": "F16", "shape": [2, 3], "data_offsets": [0, 12]}} x', "after its end"),
        (b'{"w" {"dtype": "F16"}}', "colon"),
        (b'{w: {"dtype": "F16"}}', "name was expected"),
        (b'{"w": {"dtype": "F16", "shape": [2, 3], "data_offsets": [0, 12]} "x": 1}', "comma"),
        (b'{"\xff": 1}', "not readable text"),
        (b'{"\\ud800": {"dtype": "F16", "shape": [2, 3], "data_offsets": [0, 12]}}', "not valid"),
        ({"w": [1, 2]}, "wrongly"),
        ({"w": {"dtype": "F16", "shape": [2, 3]}}, "wrongly"),
        ({"w": entry() | {"more": 1}}, "wrongly"),
        ({"w": entry(shape=(2, True), offsets=(0, 4))}, "shape"),
        ({"w": entry(shape=(2, -3))}, "shape"),
        ({"w": entry(shape=(2, 3.0))}, "shape"),
        ({"w": entry(shape=(1, 1, 1, 1, 1, 6))}, "shape"),
        ({"w": entry(shape=(2**62,))}, "shape"),
        ({"w": entry(shape=(2**61, 2**61))}, "should have"),
        ({"w": entry(shape=(0, 2**40), offsets=(0, 0))}, "empty"),
        ({"w": entry(shape=(0,), offsets=(0, 0))}, "empty"),
        ({"w": entry(offsets=(0, 11))}, "should have 12"),
        ({"w": entry(offsets=(12, 0))}, "should have 12"),
        ({"w": entry(offsets=(0, 12, 24))}, "place"),
        ({"w": entry(), "x": entry(offsets=(6, 18))}, "overlaps"),
        ({"w": entry(), "x": entry(offsets=(0, 12))}, "overlaps"),
        ({"w": entry(offsets=(4, 16))}, "hole"),
        ({"w": entry(), "__metadata__": {"a": 1}}, "metadata"),
        ({"w": entry(), "__metadata__": ["a"]}, "metadata"),
    ],
)
def test_contradictory_headers_are_corrupt(tmp_path, header, words):
    caught = refused(tmp_path, header)
    assert type(caught) is ModelCorrupt
    assert words in caught.what


def test_bytes_after_the_last_tensor_are_corrupt(tmp_path):
    assert "5 bytes more" in refused(tmp_path, {"w": entry()}, hole=17).what


def test_duplicate_keys_are_corrupt(tmp_path):
    one = json.dumps(entry())
    assert "twice" in refused(tmp_path, f'{{"w": {one}, "w": {one}}}'.encode()).what
    assert (
        "twice"
        in refused(tmp_path, b'{"w": {"dtype": "F16", "dtype": "F16", "shape": [6], "data_offsets": [0, 12]}}').what
    )
    assert (
        "__metadata__" in refused(tmp_path, f'{{"__metadata__": {{}}, "__metadata__": {{}}, "w": {one}}}'.encode()).what
    )


def test_unknown_number_format_names_the_known_ones(tmp_path):
    caught = refused(tmp_path, {"w": entry(dtype="Q4_K")})
    assert isinstance(caught, ModelUnsupported)
    assert "'Q4_K'" in caught.what
    assert "F8_E4M3" in caught.todo


@pytest.mark.parametrize(
    "header",
    [
        b'{"' + b"n" * 2000 + b'": {}}',
        b'{"w": {"dtype": "F16", "shape": [' + b"1," * 100_000 + b"1]}}",
        b'{"w": ' + b"[" * 1_000_000,
        b'{"__metadata__": {"a": "' + b"x" * 11_000_000 + b'"}}',
    ],
    ids=["name", "shape", "nesting", "metadata"],
)
def test_parts_beyond_their_bounds_are_refused_quickly(tmp_path, header):
    begin = time.perf_counter()
    assert isinstance(refused(tmp_path, header), (ModelUnsafe, ModelCorrupt))
    assert time.perf_counter() - begin < 2


def test_nested_metadata_is_refused_without_a_crash(tmp_path):
    assert isinstance(refused(tmp_path, b'{"__metadata__": ' + b"[" * 200_000 + b"]" * 200_000 + b"}"), ModelCorrupt)


def test_more_tensors_than_any_model_has_are_refused(tmp_path):
    entries = (f'"{i}":{{"dtype":"F16","shape":[1],"data_offsets":[{2 * i},{2 * i + 2}]}}' for i in range(MAX_KEYS + 1))
    caught = refused(tmp_path, ("{" + ",".join(entries) + "}").encode(), hole=2 * (MAX_KEYS + 1))
    assert isinstance(caught, ModelUnsafe)
    assert "100,000" in caught.what


def test_missing_file_is_not_found(tmp_path):
    assert isinstance(refusal(tmp_path / "gone.safetensors"), NotFound)


@pytest.mark.skipif(sys.platform == "win32", reason="no FIFOs")
def test_only_regular_files_are_read_and_a_fifo_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "fifo.safetensors")
    (tmp_path / "folder.safetensors").mkdir()
    (tmp_path / "zero.safetensors").symlink_to("/dev/zero")
    for name in ("fifo", "folder", "zero"):
        assert isinstance(refusal(tmp_path / f"{name}.safetensors"), ModelUnsafe)


def test_library_agrees_with_what_was_read(tmp_path):
    from safetensors import safe_open

    path = write_sparse(tmp_path / "a.safetensors", published("sd3_vae") | keys("extra"), {"a": "b"})
    header = read_header(path)
    with safe_open(path, framework="np") as file:
        assert set(file.keys()) == set(header.tensors)
        assert file.metadata() == header.metadata
        for key, info in header.tensors.items():
            assert tuple(file.get_slice(key).get_shape()) == info.shape
