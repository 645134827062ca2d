"""Stored layers: the numbers of the weight, cast once, and next to no memory of their own."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backend.nn.layers import GEGLU
from backend.nn.stored import Encoded, Scratch, StoredLinear, decode_into, plain_weight, store

HALF = (torch.float16, torch.bfloat16)
BYTES = (torch.float8_e4m3fn, torch.float8_e5m2, torch.int8)


def codes(dtype: torch.dtype, *shape: int) -> Tensor:
    """Numbers of any size that the dtype holds."""
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    return (noise * 40).round().to(dtype) if dtype is torch.int8 else noise.to(dtype)


def stored_linear(weight: Encoded, dtype: torch.dtype, bias: Tensor | None = None) -> nn.Module:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    if bias is not None:
        layer.bias = nn.Parameter(bias, requires_grad=False)
    store(layer, weight, dtype, Scratch())
    return layer


@pytest.mark.parametrize("arithmetic", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dtype", [*HALF, *BYTES, torch.float32])
def test_a_stored_layer_equals_a_layer_that_was_cast_as_a_whole(dtype: torch.dtype, arithmetic: torch.dtype) -> None:
    weight, x, bias = codes(dtype, 96, 80), torch.randn(5, 80).to(arithmetic), torch.randn(96).to(arithmetic)
    layer = stored_linear(Encoded(weight, (96, 80)), arithmetic, bias)
    assert torch.equal(layer(x), F.linear(x, weight.to(arithmetic), bias))


@pytest.mark.parametrize("dtype", BYTES)
@pytest.mark.parametrize("arithmetic", [torch.float32, torch.bfloat16])
def test_a_scaled_weight_is_its_number_times_the_scale_rounded_once(
    dtype: torch.dtype, arithmetic: torch.dtype
) -> None:
    weight, scale = codes(dtype, 63, 31), torch.tensor(0.0123456)  # an odd number of values
    out = Encoded(weight, (63, 31), scale).decoded(arithmetic)
    exact = weight.double() * scale.double()  # exact: 24 + 8 bits of mantissa
    assert torch.equal(out, exact.float().to(arithmetic))


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_fact_15_scaled_fp8_equals_the_float64_reference_and_its_bias_is_not_rounded_to_fp8(dtype: torch.dtype) -> None:
    weight, scale, bias = codes(dtype, 64, 128), torch.tensor(0.037), torch.randn(64)
    layer = stored_linear(Encoded(weight, (64, 128), scale), torch.float32, bias)
    x = torch.randn(7, 128)
    expected = x.double() @ (weight.double() * scale.double()).T + bias.double()
    torch.testing.assert_close(layer(x).double(), expected, rtol=1e-5, atol=1e-5)
    assert layer.bias.dtype is torch.float32
    # Fact 15: with a bias in fp8 this would be off by some percent of its size.
    assert (expected - bias.double() + bias.to(dtype).double() - layer(x).double()).abs().max() > 1e-2


@pytest.mark.parametrize("arithmetic", [torch.float32, torch.bfloat16])
def test_all_256_codes_are_what_torch_says_they_are(arithmetic: torch.dtype) -> None:
    for dtype in BYTES:
        every = torch.arange(256, dtype=torch.uint8).view(dtype)
        found = Encoded(every, (256,)).decoded(arithmetic)
        torch.testing.assert_close(found, every.to(arithmetic), rtol=0, atol=0, equal_nan=True)


def test_one_scale_a_row_is_for_the_row() -> None:
    weight, scale = codes(torch.int8, 6, 10), torch.rand(6)
    found = Encoded(weight, (6, 10), scale).decoded(torch.float32)
    assert torch.equal(found, weight.float() * scale[:, None])
    kernel = codes(torch.int8, 6, 4, 3, 3)
    found = Encoded(kernel, (6, 4, 3, 3), scale).decoded(torch.float32)
    assert torch.equal(found, kernel.float() * scale[:, None, None, None])


@pytest.mark.parametrize("dtype", [*HALF, *BYTES])
def test_convolutions_and_embeddings_are_the_cast_ones(dtype: torch.dtype) -> None:
    kernel = codes(dtype, 8, 4, 3, 3)
    convolution = nn.Conv2d(4, 8, 3, padding=1, stride=2, bias=False, device="meta")
    store(convolution, Encoded(kernel, (8, 4, 3, 3)), torch.float32, Scratch())
    x = torch.randn(2, 4, 9, 7)
    assert torch.equal(convolution(x), F.conv2d(x, kernel.float(), padding=1, stride=2))

    table, ids = codes(dtype, 50, 16), torch.randint(0, 50, (2, 9))
    embedding = nn.Embedding(50, 16, device="meta")
    store(embedding, Encoded(table, (50, 16), torch.tensor(0.5)), torch.float32, Scratch())
    assert torch.equal(embedding(ids), table.float()[ids] * 0.5)


def test_an_embedding_of_blocks_decodes_the_rows_that_are_asked_for() -> None:
    from tests.formats.gguf_files import numbers, random_blocks

    raw = random_blocks((40, 256), "Q4_K")
    table = torch.from_numpy(numbers((raw, "Q4_K")))
    embedding = nn.Embedding(40, 256, device="meta")
    store(embedding, Encoded(torch.from_numpy(raw).view(-1, 144), (40, 256), blocks="Q4_K"), torch.float32, Scratch())
    ids = torch.tensor([[3, 39, 3], [0, 1, 2]])
    assert torch.equal(embedding(ids), table[ids])


def test_geglu_computes_the_same_bits_with_a_stored_weight() -> None:
    with torch.inference_mode():
        gate = GEGLU(32, 64).half()
        x = torch.randn(3, 5, 32)
        weight, bias = gate.proj.weight.data, gate.proj.bias.data.float()
        gate.float()
        expected = gate(x)
        gate.proj = stored_linear(Encoded(weight, (128, 32)), torch.float32, bias)
        assert torch.equal(gate(x), expected)


def test_the_layer_stays_the_object_that_others_hold() -> None:
    layer = nn.Linear(4, 4, device="meta")
    holder = [layer]
    store(layer, Encoded(codes(torch.float16, 4, 4), (4, 4)), torch.float32, Scratch())
    assert isinstance(holder[0], StoredLinear)
    assert isinstance(layer, nn.Linear)
    assert plain_weight(layer).dtype is torch.float32


def test_threads_have_scratch_of_their_own() -> None:
    scratch, seen = Scratch(), []
    mine = scratch.take((4, 4), torch.float32, torch.device("cpu"))
    thread = threading.Thread(
        target=lambda: seen.append(scratch.take((4, 4), torch.float32, torch.device("cpu")).data_ptr())
    )
    thread.start()
    thread.join()
    assert seen[0] != mine.data_ptr()
    assert scratch.take((2, 2), torch.float32, torch.device("cpu")).data_ptr() == mine.data_ptr()


def test_scratch_that_inference_mode_first_needed_serves_outside_of_it() -> None:
    layer = stored_linear(Encoded(codes(torch.float16, 8, 8), (8, 8)), torch.float32)
    with torch.inference_mode():
        first = layer(torch.ones(1, 8))
    assert torch.equal(layer(torch.ones(1, 8)), first)


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="only Linux tells anonymous memory apart")
def test_casting_a_stored_layer_leaves_no_memory_behind() -> None:
    layers = [stored_linear(Encoded(codes(torch.float16, 2048, 2048), (2048, 2048)), torch.float32) for _ in range(6)]
    scratch = Scratch()
    for layer in layers:
        layer.scratch = scratch  # as the layers of one network share it
    x = torch.ones(1, 2048)
    layers[0](x)
    before = anonymous()
    for layer in layers:
        layer(x)
    assert anonymous() - before < 4 * 2**20  # one cast weight is 16 MiB


def anonymous() -> int:
    """Bytes of this process that no file backs."""
    line = next(
        line for line in Path("/proc/self/smaps_rollup").read_text().splitlines() if line.startswith("Anonymous:")
    )
    return int(line.split()[1]) * 1024


def test_decoding_writes_into_what_is_given() -> None:
    weight = codes(torch.float8_e4m3fn, 16, 16)
    out = torch.full((16, 16), 9.0)
    decode_into(out, Encoded(weight, (16, 16)))
    assert torch.equal(out, weight.float())
