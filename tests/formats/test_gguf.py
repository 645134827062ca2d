"""GGUF headers: read as safetensors headers are, in milliseconds, and harmless whatever is in them."""

from __future__ import annotations

import os
import random
import struct
import time

import numpy as np
import pytest

from backend.errors import ModelCorrupt, ModelUnsafe, ModelUnsupported, UserError
from backend.formats.configs import CheckpointInfo
from backend.formats.detect import detect
from backend.formats.header import BLOCKS, TensorInfo
from backend.formats.reader import read_header
from tests.formats.files import published
from tests.formats.gguf_files import random_blocks, write_gguf
from tests.formats.test_detect import SD35_MEDIUM

MIX = {
    "a.weight": (np.ones((4, 64), np.float32), "F32"),
    "b.weight": (random_blocks((8, 512), "Q4_K"), "Q4_K"),
    "c.bias": (np.ones(3, np.float16), "F16"),
    "d.weight": (random_blocks((2, 32), "Q8_0"), "Q8_0"),
}


@pytest.fixture
def mixed(tmp_path):
    return write_gguf(tmp_path / "m.safetensors", "sdxl", MIX, texts={"general.name": "mine", "a.list": ["x", "yy"]})


def test_names_shapes_and_formats_are_those_of_the_tensors(mixed):
    header = read_header(mixed)  # by its first bytes, not by its name
    assert header.container == "gguf"
    assert dict(header.tensors) == {
        "a.weight": TensorInfo("F32", (4, 64)),
        "b.weight": TensorInfo("Q4_K", (8, 512)),
        "c.bias": TensorInfo("F16", (3,)),
        "d.weight": TensorInfo("Q8_0", (2, 32)),
    }
    assert (header.metadata["general.architecture"], header.metadata["general.name"]) == ("sdxl", "mine")
    assert header.tensors["b.weight"].bytes == 8 * 2 * 144


def test_tensors_begin_where_the_header_says(mixed):
    data = mixed.read_bytes()
    for key, info in read_header(mixed).tensors.items():
        assert data[info.offset : info.offset + info.bytes] == MIX[key][0].tobytes()


def test_a_convolution_in_rows_of_256_gets_its_shape_back(tmp_path):
    rows = {"conv.weight": (random_blocks((45, 256), "Q4_K"), "Q4_K")}
    path = write_gguf(tmp_path / "a.gguf", "sdxl", rows, shapes={"conv.weight": (320, 4, 3, 3)})
    assert read_header(path).tensors["conv.weight"].shape == (320, 4, 3, 3)
    wrong = write_gguf(tmp_path / "b.gguf", "sdxl", rows, shapes={"conv.weight": (320, 4, 3, 4)})
    with pytest.raises(ModelCorrupt, match="original shape"):
        read_header(wrong)


def test_t5_comes_by_its_published_names(tmp_path):
    names = {
        "token_embd": "shared",
        "enc.output_norm": "encoder.final_layer_norm",
        "enc.blk.11.attn_q": "encoder.block.11.layer.0.SelfAttention.q",
        "enc.blk.0.attn_o": "encoder.block.0.layer.0.SelfAttention.o",
        "enc.blk.0.attn_rel_b": "encoder.block.0.layer.0.SelfAttention.relative_attention_bias",
        "enc.blk.0.attn_norm": "encoder.block.0.layer.0.layer_norm",
        "enc.blk.0.ffn_norm": "encoder.block.0.layer.1.layer_norm",
        "enc.blk.0.ffn_gate": "encoder.block.0.layer.1.DenseReluDense.wi_0",
        "enc.blk.0.ffn_up": "encoder.block.0.layer.1.DenseReluDense.wi_1",
        "enc.blk.0.ffn_down": "encoder.block.0.layer.1.DenseReluDense.wo",
    }
    one = (np.ones((2, 32), np.float16), "F16")
    path = write_gguf(tmp_path / "t.gguf", "t5encoder", {f"{name}.weight": one for name in names})
    assert set(read_header(path).tensors) == {f"{name}.weight" for name in names.values()}


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_a_quantised_sd35_medium_is_detected_as_one(tmp_path, prefix):
    """True keys and shapes; the tensors are a hole."""
    tensors = {
        prefix + key.removeprefix("model.diffusion_model."): shape
        for key, (_, shape) in published("sd35_medium").items()
        if key.startswith("model.diffusion_model.")
    }
    path = write_hole(tmp_path / "a.gguf", tensors, "Q4_K")
    started = time.perf_counter()
    info = detect(read_header(path))
    assert time.perf_counter() - started < 0.5
    assert isinstance(info, CheckpointInfo)
    assert (info.denoiser, info.variant, info.precision) == (SD35_MEDIUM, "SD3.5 Medium", "GGUF Q4_K")
    assert info.sources["denoiser"].prefix == prefix


def test_a_vocabulary_of_half_a_million_texts_is_passed_over(tmp_path):
    path = write_gguf(tmp_path / "t.gguf", "t5", MIX, texts={"tokenizer.ggml.tokens": ["token"] * 200_000})
    started = time.perf_counter()
    header = read_header(path)
    assert time.perf_counter() - started < 2
    assert "tokenizer.ggml.tokens" not in header.metadata


def test_every_truncation_is_refused(mixed):
    whole = mixed.read_bytes()
    for length in reversed([*range(0, 600, 13), *range(600, len(whole) - 32, 201)]):
        os.truncate(mixed, length)
        with pytest.raises(UserError):
            read_header(mixed)


def test_a_flipped_byte_of_the_header_gives_an_error_of_ours_or_a_sound_header(mixed):
    whole = mixed.read_bytes()
    end = min(info.offset for info in read_header(mixed).tensors.values())
    rng = random.Random(5)
    refused = 0
    for _ in range(700):
        place = rng.randrange(end)
        mixed.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << rng.randrange(8))]) + whole[place + 1 :])
        try:
            header = read_header(mixed)
        except UserError:
            refused += 1
            continue
        assert all(info.offset + info.bytes <= len(whole) for info in header.tensors.values())
    assert refused > 100


@pytest.mark.parametrize(
    ("header", "error"),
    [
        (struct.pack("<4sIQQ", b"GGUF", 3, 2**40, 0), ModelUnsafe),
        (struct.pack("<4sIQQ", b"GGUF", 3, 1, 2**40), ModelUnsafe),
        (struct.pack("<4sIQQ", b"GGUF", 1, 1, 1), ModelUnsupported),
        (struct.pack(">4sIQQ", b"GGUF", 3, 1, 1), ModelUnsupported),  # big-endian
        (struct.pack("<4sIQQQ", b"GGUF", 3, 1, 1, 2**63), ModelUnsafe),  # a name of 2^63 bytes
        (struct.pack("<4sIQQQ1sIIQ", b"GGUF", 3, 1, 1, 1, b"k", 9, 8, 2**50), ModelUnsafe),  # a list of 2^50 texts
        (struct.pack("<4sIQQQ1sIIQ", b"GGUF", 3, 1, 1, 1, b"k", 9, 4, 2**61), ModelCorrupt),  # 2^63 bytes of numbers
        (struct.pack("<4sIQQQ1sIIQ", b"GGUF", 3, 1, 1, 1, b"k", 9, 9, 1), ModelCorrupt),  # a list of lists
        (struct.pack("<4sIQQ", b"GGUF", 3, 0, 0), ModelCorrupt),
    ],
)
def test_hostile_counts_are_refused_before_they_are_believed(tmp_path, header, error):
    path = tmp_path / "a.gguf"
    path.write_bytes(header + bytes(64))
    with pytest.raises(error):
        read_header(path)


def entry(key: bytes, sizes: tuple[int, ...], kind: int, offset: int) -> bytes:
    shape = struct.pack(f"<{len(sizes)}Q", *sizes)
    return struct.pack("<Q", len(key)) + key + struct.pack("<I", len(sizes)) + shape + struct.pack("<IQ", kind, offset)


def with_tensors(*entries: bytes, data: int) -> bytes:
    header = struct.pack("<4sIQQ", b"GGUF", 3, len(entries), 0) + b"".join(entries)
    return header + bytes(-len(header) % 32 + data)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (with_tensors(entry(b"a", (8,), 0, 0), entry(b"b", (8,), 0, 0), data=32), "overlaps"),
        (with_tensors(entry(b"a", (8,), 0, 0), entry(b"b", (8,), 0, 64), data=96), "hole"),
        (with_tensors(entry(b"a", (8,), 0, 0), entry(b"a", (8,), 0, 32), data=64), "twice"),
        (with_tensors(entry(b"a", (8,), 0, 7), data=64), "may begin"),
        (with_tensors(entry(b"a", (31,), 8, 0), data=64), "whole blocks"),
        (with_tensors(entry(b"a", (0,), 0, 0), data=64), "valid shape"),
        (with_tensors(entry(b"a", (2**40, 2**40), 0, 0), data=64), "valid shape"),
        (with_tensors(entry(b"a", (1,) * 9, 0, 0), data=64), "valid shape"),
        (with_tensors(entry(b"a", (8,), 0, 0), data=16), "cut"),
        (with_tensors(entry(b"a", (8,), 0, 0), data=300), "more than its header"),
        (with_tensors(entry(b"a", (8,), 16, 0), data=64), "IQ2_XXS"),
        (with_tensors(entry(b"a", (8,), 99, 0), data=64), "type 99"),
    ],
)
def test_tensors_that_contradict_the_file_are_refused_with_what_is_wrong(tmp_path, content, words):
    path = tmp_path / "a.gguf"
    path.write_bytes(content)
    with pytest.raises(UserError, match=words):
        read_header(path)


def write_hole(path, tensors, kind):
    """A GGUF file whose rows are blocks of ``kind`` where they can be, else F16, without data."""
    ids = {"Q4_K": 12, "F16": 1}
    values, size = BLOCKS[kind]
    entries, offset = [], 0
    for key, shape in tensors.items():
        name = kind if shape and shape[-1] % values == 0 and len(shape) > 1 else "F16"
        count = int(np.prod(shape)) if shape else 1
        entries.append(entry(key.encode(), tuple(reversed(shape)), ids[name], offset))
        used = count // values * size if name == kind else 2 * count
        offset += -(-used // 32) * 32
    header = struct.pack("<4sIQQ", b"GGUF", 3, len(entries), 0) + b"".join(entries)
    with path.open("wb") as file:
        file.write(header + bytes(-len(header) % 32))
        file.truncate(file.tell() + offset)
    return path
