"""Attention: one function that every network calls, and the attention layer of the U-Net's transformers."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from backend.diffusion.patched import Patched
from backend.diffusion.patching import QKV, Place


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, T, C) -> (B, heads, T, C // heads), a view."""
    B, T, C = x.shape
    return x.view(B, T, heads, C // heads).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """(B, heads, T, D) -> (B, T, heads * D)."""
    B, heads, T, D = x.shape
    return x.transpose(1, 2).reshape(B, T, heads * D)


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """Softmax attention over all tokens, scaled by 1/sqrt(D).

    Args:
        q: (B, heads, T, D).
        k, v: (B or 1, heads, S, D); one row serves the whole batch.
        bias: added to the scores, broadcastable to (B, heads, T, S).
    Returns:
        (B, heads, T, D).
    """
    if k.shape[0] != q.shape[0]:
        k, v = (part.expand(q.shape[0], -1, -1, -1) for part in (k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)


@dataclass(frozen=True)
class PreparedContext:
    """What a network computes from the text once a prompt, whatever the step: forward takes it in place of the context.

    Attributes:
        parts: U-Net: keys and values of each cross attention, in order of execution, (B, heads, T, head_dim) each;
            MMDiT: the one tensor of embedded text tokens, (B, T, hidden).
        tokens: T, the number of text tokens.
    """

    parts: tuple[tuple[Tensor, ...], ...]
    tokens: int


class Attention(nn.Module):
    """Multi-head attention of the U-Net: over the image itself, or from the image to the text."""

    def __init__(self, dim: int, context_dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(dim, dim, bias=False)
        self.to_k = nn.Linear(context_dim, dim, bias=False)
        self.to_v = nn.Linear(context_dim, dim, bias=False)
        # to_out.1 is the published code's dropout, without weights.
        self.to_out = nn.ModuleList([nn.Linear(dim, dim)])

    def keys_values(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, context_dim) -> keys and values, (B, heads, T, head_dim) each."""
        return split_heads(self.to_k(context), self.heads), split_heads(self.to_v(context), self.heads)

    def forward(
        self, x: Tensor, keys_values: tuple[Tensor, Tensor], place: Place | None = None, patches: Patched | None = None
    ) -> Tensor:
        """(B, T, dim) -> (B, T, dim), attending to what ``keys_values`` was made from."""
        q = split_heads(self.to_q(x), self.heads)
        k, v = keys_values
        h = attend(q, k, v) if patches is None or place is None else patches.attention(place, QKV(q, k, v), attend)
        h = merge_heads(h)
        return self.to_out[0](h)
