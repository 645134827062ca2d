"""GGUF's quantised blocks as float32, whole runs of blocks at a time: one function for each kind of block.

Each takes (n, bytes of a block) uint8 and gives (n, values of a block) float32, with the arithmetic of the reference
in the reference's order, so that the numbers are the same to the last bit.

Source: the layouts of ggml-common.h and ggml-quants.c of ggml-org/llama.cpp.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

_IQ4_VALUES = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


def _half(data: Tensor) -> Tensor:
    """(n, 2 k) bytes -> (n, k) float32."""
    return data.contiguous().view(torch.float16).float()


def _split(data: Tensor, run: int, bits: int) -> Tensor:
    """Numbers of ``bits`` bits, packed as runs: the lowest bits of ``run`` bytes are a run of values, then the next.

    (n, m) bytes -> (n, m * 8 / bits) uint8.
    """
    n = data.shape[0]
    shifts = torch.arange(0, 8, bits, dtype=torch.uint8, device=data.device).view(1, 1, -1, 1)
    return ((data.reshape(n, -1, 1, run) >> shifts) & (2**bits - 1)).reshape(n, -1)


def _fifth_bit(data: Tensor) -> Tensor:
    """(n, 4) bytes of one bit a value -> (n, 32) uint8, 0 or 16."""
    shifts = torch.arange(8, dtype=torch.uint8, device=data.device)
    return (((data[:, :, None] >> shifts) & 1) << 4).reshape(-1, 32)


def _q4_0(blocks: Tensor) -> Tensor:
    scale, codes = blocks.split([2, 16], dim=1)
    return _half(scale) * (_split(codes, 16, 4).float() - 8)


def _q4_1(blocks: Tensor) -> Tensor:
    scale, least, codes = blocks.split([2, 2, 16], dim=1)
    return _half(scale) * _split(codes, 16, 4).float() + _half(least)


def _q5_0(blocks: Tensor) -> Tensor:
    scale, high, codes = blocks.split([2, 4, 16], dim=1)
    return _half(scale) * ((_split(codes, 16, 4) | _fifth_bit(high)).float() - 16)


def _q5_1(blocks: Tensor) -> Tensor:
    scale, least, high, codes = blocks.split([2, 2, 4, 16], dim=1)
    return _half(scale) * (_split(codes, 16, 4) | _fifth_bit(high)).float() + _half(least)


def _q8_0(blocks: Tensor) -> Tensor:
    scale, codes = blocks.split([2, 32], dim=1)
    return codes.view(torch.int8).float() * _half(scale)


def _q2_k(blocks: Tensor) -> Tensor:
    packed, codes, scale, least = blocks.split([16, 64, 2, 2], dim=1)
    scales = _half(scale) * (packed & 15).float()  # (n, 16), one for 16 values
    leasts = _half(least) * (packed >> 4).float()
    values = _split(codes, 32, 2).view(-1, 16, 16).float()
    return (scales[:, :, None] * values - leasts[:, :, None]).view(-1, 256)


def _q3_k(blocks: Tensor) -> Tensor:
    high, codes, packed, scale = blocks.split([32, 64, 12, 2], dim=1)
    # Scales of 6 bits: the low four of all 16 in 8 bytes, then the high two in 4.
    low, top = _split(packed[:, :8], 8, 4), _split(packed[:, 8:], 4, 2)
    scales = _half(scale) * ((low | (top << 4)).float() - 32)
    # The high bit counts down: a value without it is 4 less.
    values = _split(codes, 32, 2).float() - ((_split(high, 32, 1) ^ 1) << 2).float()
    return (scales[:, :, None] * values.view(-1, 16, 16)).view(-1, 256)


def _scales_and_leasts(packed: Tensor) -> tuple[Tensor, Tensor]:
    """The eight scales and eight minima of Q4_K and Q5_K, 6 bits each: (n, 12) -> two of (n, 8) float32."""
    first, second, rest = packed.split([4, 4, 4], dim=1)
    scales = torch.cat([first & 63, (rest & 15) | ((first >> 2) & 48)], dim=1)
    leasts = torch.cat([second & 63, (rest >> 4) | ((second >> 2) & 48)], dim=1)
    return scales.float(), leasts.float()


def _in_eighths(scale: Tensor, least: Tensor, packed: Tensor, values: Tensor) -> Tensor:
    """scale * value - minimum with one pair for each 32 of 256 values."""
    scales, leasts = _scales_and_leasts(packed)
    values = values.view(-1, 8, 32).float()
    values *= (_half(scale) * scales)[:, :, None]
    values -= (_half(least) * leasts)[:, :, None]
    return values.view(-1, 256)


def _q4_k(blocks: Tensor) -> Tensor:
    scale, least, packed, codes = blocks.split([2, 2, 12, 128], dim=1)
    return _in_eighths(scale, least, packed, _split(codes, 32, 4))


def _q5_k(blocks: Tensor) -> Tensor:
    scale, least, packed, high, codes = blocks.split([2, 2, 12, 32, 128], dim=1)
    return _in_eighths(scale, least, packed, _split(codes, 32, 4) | (_split(high, 32, 1) << 4))


def _q6_k(blocks: Tensor) -> Tensor:
    low, high, packed, scale = blocks.split([128, 64, 16, 2], dim=1)
    scales = _half(scale) * packed.view(torch.int8).float()  # (n, 16), one for 16 values
    values = (_split(low, 64, 4) | (_split(high, 32, 2) << 4)).view(-1, 16, 16).float()
    values -= 32
    values *= scales[:, :, None]
    return values.view(-1, 256)


def _iq4_values(codes: Tensor) -> Tensor:
    """(n, m) bytes -> (n, 2 m) float32 from the table of 16 uneven steps."""
    table = torch.tensor(_IQ4_VALUES, dtype=torch.float32, device=codes.device)
    return table[_split(codes, 16, 4).int()]


def _iq4_nl(blocks: Tensor) -> Tensor:
    scale, codes = blocks.split([2, 16], dim=1)
    return _half(scale) * _iq4_values(codes)


def _iq4_xs(blocks: Tensor) -> Tensor:
    scale, top, low, codes = blocks.split([2, 2, 4, 128], dim=1)
    shifts = torch.arange(0, 8, 2, dtype=torch.uint8, device=blocks.device)
    high = ((top[:, :, None] >> shifts) & 3).reshape(-1, 8)
    nibbles = torch.stack([low & 15, low >> 4], dim=2).reshape(-1, 8)
    scales = _half(scale) * ((nibbles | (high << 4)).float() - 32)  # (n, 8), one for 32 values
    return (scales[:, :, None] * _iq4_values(codes).view(-1, 8, 32)).view(-1, 256)


#: Name of the block -> its numbers.
DECODERS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "Q4_0": _q4_0, "Q4_1": _q4_1, "Q5_0": _q5_0, "Q5_1": _q5_1, "Q8_0": _q8_0,
    "Q2_K": _q2_k, "Q3_K": _q3_k, "Q4_K": _q4_k, "Q5_K": _q5_k, "Q6_K": _q6_k,
    "IQ4_NL": _iq4_nl, "IQ4_XS": _iq4_xs,
}  # fmt: skip
