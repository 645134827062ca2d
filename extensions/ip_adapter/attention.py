"""What an adapter adds to attentions: a second attention, to the picture's tokens, beside the one to the text.

In every call a branch that reads the negative prompt looks at the tokens of no picture, all others at the picture's.
Source: Ye et al. 2023, arXiv:2308.06721 (decoupled cross attention); for the joint attention InstantX's code as
diffusers has it (``SD3IPAdapterJointAttnProcessor2_0``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from backend.api import QKV, Call, Place
from extensions.ip_adapter.adapter import JointLayer, UNetLayer

Tokens = Callable[[float], tuple[Tensor, Tensor]]


class CrossImages:
    """The change of a U-Net's cross attentions: out + weight * attend(q, picture's keys, picture's values).

    Args:
        layers: by place.
        tokens: (2, S, D), of the picture and of none.
    """

    def __init__(self, layers: Mapping[Place, UNetLayer], tokens: Tensor, weight: float) -> None:
        self._layers = layers
        self._tokens = tokens
        self._weight = weight
        self._known: dict[Place, tuple[Tensor, Tensor]] = {}

    def __call__(self, out: Tensor, qkv: QKV, place: Place, call: Call) -> Tensor:
        """(B, heads, T, head_dim) -> the same."""
        if place not in self._known:
            layer, heads = self._layers[place], out.shape[1]
            self._known[place] = (
                split_heads(layer.to_k_ip(self._tokens), heads),
                split_heads(layer.to_v_ip(self._tokens), heads),
            )
        k, v = (of_branches(part, call) for part in self._known[place])
        return out + self._weight * F.scaled_dot_product_attention(qkv.q, k, v)


class HeadWeights(NamedTuple):
    """What the denoiser's own norms have multiplied a query and a key with, (head_dim,); None: it has no norms."""

    q: Tensor | None
    k: Tensor | None


class JointImages:
    """The change of an MMDiT's joint attentions: image tokens attend once more, to themselves and the picture's tokens.

    The adapter norms queries and keys by itself. Those at hand are normed already: q / rms(q) * weight; without the
    weight it is a vector whose norm is that of q.

    Args:
        layers: by place.
        tokens: of a noise level: (2, S, D), of the picture and of none, and the embedded timestep, (2, emb).
        own: the weights of a place's norms.
    """

    def __init__(
        self, layers: Mapping[Place, JointLayer], tokens: Tokens, own: Callable[[Place], HeadWeights], weight: float
    ) -> None:
        self._layers = layers
        self._tokens = tokens
        self._own = own
        self._weight = weight
        self._sigma: float | None = None
        self._now: tuple[Tensor, Tensor] | None = None
        self._known: dict[Place, tuple[Tensor, Tensor]] = {}

    def __call__(self, out: Tensor, qkv: QKV, place: Place, call: Call) -> Tensor:
        """(B, heads, T, head_dim) -> the same; the text's tokens, which come first, stay."""
        layer, own = self._layers[place], self._own(place)
        q, k, v = (part[:, :, call.text_tokens :] for part in qkv)
        q, k = layer.norm_q(unweighted(q, own.q)), layer.norm_k(unweighted(k, own.k))
        more_k, more_v = (of_branches(part, call) for part in self._keys_values(place, call.sigma, out.shape[1]))
        seen = F.scaled_dot_product_attention(q, torch.cat([k, more_k], dim=2), torch.cat([v, more_v], dim=2))
        image = out[:, :, call.text_tokens :] + self._weight * seen
        return torch.cat([out[:, :, : call.text_tokens], image], dim=2)

    def _keys_values(self, place: Place, sigma: float, heads: int) -> tuple[Tensor, Tensor]:
        """Of the picture and of none, (2, heads, S, head_dim); they change with the timestep."""
        if self._now is None or sigma != self._sigma:
            self._sigma, self._now = sigma, self._tokens(sigma)
            self._known.clear()
        if place not in self._known:
            layer = self._layers[place]
            tokens = layer.norm_ip(*self._now)
            self._known[place] = (
                layer.norm_ip_k(split_heads(layer.to_k_ip(tokens), heads)),
                split_heads(layer.to_v_ip(tokens), heads),
            )
        return self._known[place]


def unweighted(x: Tensor, weight: Tensor | None) -> Tensor:
    """What was normed, (..., head_dim), without its norm's weight; what the weight made 0 stays 0."""
    if weight is None:
        return x
    weight = weight.to(x)
    return x / torch.where(weight == 0, 1, weight)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, S, C) -> (B, heads, S, C / heads)."""
    return x.unflatten(2, (heads, -1)).transpose(1, 2)


def of_branches(pair: Tensor, call: Call) -> Tensor:
    """A row for each picture of each branch, of a pair of the picture's row and that of none."""
    negative = call.negative or (False,) * len(call.branches)
    return torch.cat([pair[int(each)].expand(call.images, *pair.shape[1:]) for each in negative])
