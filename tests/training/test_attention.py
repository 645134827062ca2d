"""Attention written out equals torch's, forwards and backwards, in the calls that networks and transformers make."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from backend.training.attention import ExplicitAttention


@pytest.mark.parametrize(
    "options",
    [{}, {"is_causal": True}, {"scale": 1.0}, {"attn_mask": torch.randn(2, 1, 6, 6)}, {"attn_mask": torch.eye(6) > 0}],
    ids=["plain", "causal", "scaled", "added mask", "boolean mask"],
)
def test_written_out_attention_equals_torch(options):
    torch.manual_seed(0)
    inputs = [torch.randn(2, 3, 6, 8, requires_grad=True) for _ in range(3)]
    expected = F.scaled_dot_product_attention(*inputs, **options)
    with ExplicitAttention():
        out = F.scaled_dot_product_attention(*inputs, **options)
    torch.testing.assert_close(out, expected)
    for ours, torchs in zip(
        torch.autograd.grad(out.square().sum(), inputs), torch.autograd.grad(expected.square().sum(), inputs)
    ):
        torch.testing.assert_close(ours, torchs)
