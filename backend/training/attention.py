"""Attention written out, for training on a CPU: torch's fused kernel is four times slower there, going backwards."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


def explicit_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    *,
    is_causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """softmax(scale q k^T + mask) v, the mask added or, where boolean, True for what is seen; scale is 1 / sqrt(D)."""
    scores = (query * (query.shape[-1] ** -0.5 if scale is None else scale)) @ key.transpose(-1, -2)
    if is_causal:
        unseen = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(unseen, float("-inf"))
    if attn_mask is not None:
        boolean = attn_mask.dtype == torch.bool
        scores = scores.masked_fill(~attn_mask, float("-inf")) if boolean else scores + attn_mask.to(scores.dtype)
    return scores.softmax(dim=-1) @ value


class ExplicitAttention(TorchFunctionMode):
    """Inside the ``with`` block, plain calls of ``scaled_dot_product_attention`` on the CPU are written out."""

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        """Redirect that one function; call every other as it is."""
        kwargs = kwargs or {}
        if func is not F.scaled_dot_product_attention or args[0].device.type != "cpu":
            return func(*args, **kwargs)
        known = {"attn_mask", "is_causal", "scale", "dropout_p", "enable_gqa"}
        if len(args) > 4 or set(kwargs) - known or kwargs.get("dropout_p") or kwargs.get("enable_gqa"):
            return func(*args, **kwargs)
        mask = args[3] if len(args) == 4 else kwargs.get("attn_mask")
        return explicit_attention(
            *args[:3], attn_mask=mask, is_causal=bool(kwargs.get("is_causal")), scale=kwargs.get("scale")
        )
