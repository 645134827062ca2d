"""GGUF's blocks come out as the gguf package has them, to the last bit."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch

from backend.formats.header import BLOCKS
from backend.nn.blocks import DECODERS


@pytest.mark.oracle
@pytest.mark.parametrize("kind", BLOCKS)
def test_blocks_equal_the_reference_bit_for_bit(kind: str) -> None:
    values, size = BLOCKS[kind]
    blocks = np.random.default_rng(7).integers(0, 256, (3000, size), dtype=np.uint8)  # any bytes: also inf and NaN
    with np.errstate(all="ignore"):
        expected = gguf.dequantize(blocks, gguf.GGMLQuantizationType[kind]).reshape(-1, values)
    found = DECODERS[kind](torch.from_numpy(blocks)).numpy()
    np.testing.assert_array_equal(found, expected)


@pytest.mark.oracle
def test_sizes_of_blocks_are_the_reference_s() -> None:
    assert all(gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]] == sizes for kind, sizes in BLOCKS.items())
    assert set(DECODERS) == set(BLOCKS)
