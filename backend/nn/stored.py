"""Layers whose weight stays in memory, or in the mapped file, as it was stored, and becomes numbers as the layer runs.

Only weights of linear layers, convolutions and embeddings are kept so; biases and norms are small, have never been
quantised, and are plain parameters. A weight is rounded once, to the arithmetic's dtype, so that a stored network and
one that was cast as a whole compute with the same bits.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backend.errors import Internal
from backend.nn.blocks import DECODERS

BYTE_DTYPES = (torch.float8_e4m3fn, torch.float8_e5m2, torch.int8)
#: So many values are decoded at a time: what lies between is small enough for a core's cache.
RUN = 1 << 17
HALF_RUN = 1 << 20  # of a cast that two cores share: 3.9 billion numbers a second, with shorter runs 2.3
DEVICE_RUN = 1 << 24  # on a GPU, where many small kernels would cost more than the memory between them
_RAW = {2: torch.int16, 4: torch.int32}  # numbers of so many bytes as bits, for NumPy, which knows no bfloat16
_RAW_PAIR = {2: np.int32, 4: np.int64}


@dataclass(frozen=True)
class Encoded:
    """A weight as its file stores it.

    Attributes:
        codes: numbers in the weight's shape; of GGUF's blocks (n, bytes of a block) uint8.
        shape: of the weight.
        scale: float32, what every number is multiplied by: (), or one a row, (rows,).
        blocks: which of GGUF's blocks; empty for plain numbers.
    """

    codes: Tensor
    shape: tuple[int, ...]
    scale: Tensor | None = None
    blocks: str = ""

    @property
    def bytes(self) -> int:
        """What it takes."""
        return self.codes.nbytes + (0 if self.scale is None else self.scale.nbytes)

    def decoded(self, dtype: torch.dtype) -> Tensor:
        """The weight, in memory of its own."""
        out = torch.empty(self.shape, dtype=dtype, device=self.codes.device)
        decode_into(out, self)
        return out


def decode_into(out: Tensor, weight: Encoded) -> None:
    """Write a weight's numbers into a contiguous tensor of its shape, rounded once to its dtype."""
    codes, scale = weight.codes, weight.scale
    if weight.blocks:
        _decode_blocks(out, codes, weight.blocks)
    elif codes.dtype in BYTE_DTYPES and _is_plain(codes) and (scale is None or scale.ndim == 0):
        _decode_bytes(out, codes, 1.0 if scale is None else float(scale))
    elif scale is None and codes.dtype is torch.float16 and out.dtype is torch.bfloat16 and _is_plain(codes):
        _round_half(out, codes)
    elif scale is None:
        out.copy_(codes)
    else:
        out.copy_(codes.float() * (scale.view(-1, *(1,) * (codes.ndim - 1)) if scale.ndim else scale))


def _is_plain(codes: Tensor) -> bool:
    """Whether NumPy can look at the memory as one run of numbers."""
    return codes.device.type == "cpu" and codes.is_contiguous()


def _round_half(out: Tensor, codes: Tensor) -> None:
    """float16 to bfloat16 by way of float32, at two to three times the rate of torch's own cast between the two."""
    flat, target = codes.view(-1), out.view(-1)
    wide = torch.empty(min(HALF_RUN, len(flat)))
    for start in range(0, len(flat), HALF_RUN):
        run = wide[: min(HALF_RUN, len(flat) - start)]
        run.copy_(flat[start : start + HALF_RUN])
        target[start : start + HALF_RUN].copy_(run)


def _decode_blocks(out: Tensor, codes: Tensor, kind: str) -> None:
    decode, flat = DECODERS[kind], out.view(-1)
    values = out.numel() // codes.shape[0]
    step = (RUN if codes.device.type == "cpu" else DEVICE_RUN) // values
    for start in range(0, codes.shape[0], step):
        run = codes[start : start + step]
        flat[start * values : (start + run.shape[0]) * values].copy_(decode(run).view(-1))


def _decode_bytes(out: Tensor, codes: Tensor, scale: float) -> None:
    """Numbers of 8 bits by looking two of them up at once: torch's own casts from float8 run at a seventh of the rate.

    All 65,536 pairs are a table of 256 or 512 KiB; a tenth of a millisecond makes it.
    """
    size = out.dtype.itemsize
    numbers = torch.arange(256, dtype=torch.uint8).view(codes.dtype).float().mul_(scale).to(out.dtype)
    single = numbers.view(_RAW[size]).numpy()
    pairs = np.empty((256, 256, 2), dtype=single.dtype)
    pairs[..., 0] = single  # the first of two bytes is the low one of a little-endian number
    pairs[..., 1] = single[:, None]
    table = pairs.view(_RAW_PAIR[size]).reshape(-1)
    bits, flat = codes.view(torch.uint8).view(-1).numpy(), out.view(-1).view(_RAW[size]).numpy()
    whole = len(bits) // 2 * 2
    two, target = bits[:whole].view("<u2"), flat[:whole].view(_RAW_PAIR[size])
    index = np.empty(min(RUN // 2, len(two)), dtype=np.intp)
    for start in range(0, len(two), RUN // 2):
        run = two[start : start + RUN // 2]
        places = index[: len(run)]
        places[:] = run
        np.take(table, places, out=target[start : start + len(run)], mode="clip")
    flat[whole:] = single[bits[whole:]]


class Scratch(threading.local):
    """Memory that the layers of one network write their weights to, one layer at a time; each thread has its own.

    Fresh memory would cost more than the decoding: the system clears every page of it.
    """

    def __init__(self) -> None:
        self._flat: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    def take(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
        """A contiguous tensor; what an earlier call gave is overwritten."""
        count = math.prod(shape)
        flat = self._flat.get((device, dtype))
        if flat is None or flat.numel() < count:
            self._flat.pop((device, dtype), None)
            with torch.inference_mode(mode=False):  # it outlives the block that first needs it
                flat = self._flat[device, dtype] = torch.empty(count, dtype=dtype, device=device)
        return flat[:count].view(shape)


class Stored(nn.Module):
    """What the stored layers share: ``codes`` and ``scale`` are buffers, the weight is made when it is asked for.

    ``change``, where there is one, makes of the weight in float32 what is computed with, each time anew: an adapter's
    work takes no memory of a weight's size. It may not write into what it is given.
    """

    change: Callable[[Tensor], Tensor] | None = None
    codes: Tensor
    scale: Tensor | None
    shape: tuple[int, ...]
    blocks: str
    dtype: torch.dtype
    scratch: Scratch

    def encoded(self) -> Encoded:
        """The weight as it is stored."""
        return Encoded(self.codes, self.shape, self.scale, self.blocks)

    def plain_weight(self) -> Tensor:
        """The weight in the arithmetic's dtype, valid until another layer of the network is asked for its own."""
        out = self.scratch.take(self.shape, self.dtype, self.codes.device)
        decode_into(out, self.encoded())
        if self.change is not None:  # of the very numbers that a weight which was cast once has: the same bits
            own = self.scratch.take(self.shape, torch.float32, self.codes.device)
            out.copy_(self.change(own.copy_(out)))
        return out


class StoredLinear(Stored, nn.Linear):
    """``nn.Linear`` with a stored weight."""

    def forward(self, input: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        return F.linear(input, self.plain_weight(), self.bias)


class StoredConv2d(Stored, nn.Conv2d):
    """``nn.Conv2d`` with a stored weight."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H', W')."""
        return self._conv_forward(input, self.plain_weight(), self.bias)


class StoredEmbedding(Stored, nn.Embedding):
    """``nn.Embedding`` with a stored weight; only the rows that are asked for are decoded."""

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """Shape and dtype without numbers: transformers' CLIP asks its table of positions how many there are."""
        return torch.empty(self.shape, dtype=self.dtype, device="meta")

    def forward(self, input: Tensor) -> Tensor:
        """(...) ids -> (..., width)."""
        if self.change is not None:
            return F.embedding(input, self.plain_weight())
        ids = input.reshape(-1)
        rows, width = self.shape
        raw = self.codes.view(torch.uint8).reshape(rows, -1)  # float8 cannot be indexed; whole rows of bytes can
        chosen = raw[ids].view(self.codes.dtype)
        if self.blocks:
            chosen = chosen.reshape(-1, self.codes.shape[1])
        scale = self.scale if self.scale is None or self.scale.ndim == 0 else self.scale[ids]
        part = Encoded(chosen, (len(ids), width), scale, self.blocks)
        return part.decoded(self.dtype).view(*input.shape, width)


_LAYERS: dict[type[nn.Module], type[Any]] = {
    nn.Linear: StoredLinear,
    nn.Conv2d: StoredConv2d,
    nn.Embedding: StoredEmbedding,
}


def can_store(layer: nn.Module) -> bool:
    """Whether the layer's weight can stay as it is stored."""
    return type(layer) in _LAYERS


def store(layer: nn.Module, weight: Encoded, dtype: torch.dtype, scratch: Scratch) -> None:
    """Let a layer compute in ``dtype`` with a weight that stays as it is stored.

    The layer changes its class and stays the same object, since others may hold it (T5's shared embedding).
    """
    if tuple(layer.weight.shape) != weight.shape:  # type: ignore[union-attr]
        raise Internal(f"A weight of {list(weight.shape)} does not fit its layer.")
    kind = _LAYERS[type(layer)]
    del layer.weight
    layer.__class__ = kind
    layer.register_buffer("codes", weight.codes)
    layer.register_buffer("scale", weight.scale)
    layer.shape, layer.blocks, layer.dtype, layer.scratch = weight.shape, weight.blocks, dtype, scratch  # type: ignore[assignment]


def plain_weight(layer: nn.Module) -> Tensor:
    """A layer's weight in the arithmetic's dtype; see ``StoredLinear.plain_weight`` for how long it is valid."""
    return layer.plain_weight() if isinstance(layer, Stored) else layer.weight  # type: ignore[return-value]


def weight_shape(layer: nn.Module) -> tuple[int, ...] | None:
    """The shape of a layer's weight, however it is kept; None where it has none."""
    if isinstance(layer, Stored):
        return layer.shape
    weight = getattr(layer, "weight", None)
    return tuple(weight.shape) if isinstance(weight, Tensor) else None


def plain_state(network: nn.Module) -> dict[str, Tensor]:
    """The state dict as if nothing were stored: stored weights in memory of their own, without their ``change``."""
    stored = {f"{name}." if name else "": m for name, m in network.named_modules() if isinstance(m, Stored)}
    state = network.state_dict()
    for prefix, layer in stored.items():
        for buffer in ("codes", "scale"):
            state.pop(prefix + buffer, None)
        state[f"{prefix}weight"] = layer.encoded().decoded(layer.dtype)
    return state
