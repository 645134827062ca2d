"""From what a vision encoder says of a picture to the tokens that attentions read: a class for each published kind.

Attribute names are the keys of the published files below ``image_proj.``.
Source: Ye et al. 2023, arXiv:2308.06721; the shapes of h94/IP-Adapter's and InstantX/SD3.5-Large-IP-Adapter's files.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HEAD = 64  # width of a head in every published resampler


class Pooled(nn.Module):
    """The ordinary adapter: the encoder's one vector becomes several tokens."""

    def __init__(self, width: int, tokens: int, token_width: int) -> None:
        super().__init__()
        self.tokens = tokens
        self.proj = nn.Linear(width, tokens * token_width)
        self.norm = nn.LayerNorm(token_width)

    def forward(self, embeds: Tensor) -> Tensor:
        """(B, width) -> (B, tokens, token_width)."""
        return self.norm(self.proj(embeds).view(len(embeds), self.tokens, -1))


class FullFace(nn.Module):
    """The full-face adapter: every token of the encoder becomes one."""

    def __init__(self, width: int, hidden: int, token_width: int) -> None:
        super().__init__()
        self.proj = nn.Sequential(
            nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, token_width), nn.LayerNorm(token_width)
        )

    def forward(self, states: Tensor) -> Tensor:
        """(B, T, width) -> (B, T, token_width)."""
        return self.proj(states)


class PerceiverAttention(nn.Module):
    """Latents look at the picture's tokens and at themselves."""

    def __init__(self, dim: int, inner: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.to_q = nn.Linear(dim, inner, bias=False)
        self.to_kv = nn.Linear(dim, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, dim, bias=False)

    def forward(self, x: Tensor, latents: Tensor, shift: Tensor | None = None, scale: Tensor | None = None) -> Tensor:
        """(B, T, dim) and (B, S, dim) -> (B, S, dim); shift and scale (B, dim) act on the normed latents."""
        x, latents = self.norm1(x), modulated(self.norm2(latents), shift, scale)
        k, v = (_heads(part) for part in self.to_kv(torch.cat([x, latents], dim=1)).chunk(2, dim=2))
        h = F.scaled_dot_product_attention(_heads(self.to_q(latents)), k, v)
        return self.to_out(h.transpose(1, 2).flatten(2))


def _feed_forward(dim: int, hidden: int) -> nn.Sequential:
    """Norm, and two layers without biases; numbered as published."""
    return nn.Sequential(
        nn.LayerNorm(dim), nn.Linear(dim, hidden, bias=False), nn.GELU(), nn.Linear(hidden, dim, bias=False)
    )


class Resampler(nn.Module):
    """The Plus adapter: learnt latents gather what the encoder's tokens say.

    Args:
        width: of the encoder's tokens.
        dim, inner, hidden: of the latents, of all heads of an attention, and of a feed-forward's inside.
    """

    def __init__(
        self, width: int, dim: int, inner: int, hidden: int, token_width: int, tokens: int, depth: int
    ) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.empty(1, tokens, dim))
        self.proj_in = nn.Linear(width, dim)
        self.layers = nn.ModuleList(
            nn.ModuleList([PerceiverAttention(dim, inner), _feed_forward(dim, hidden)]) for _ in range(depth)
        )
        self.proj_out = nn.Linear(dim, token_width)
        self.norm_out = nn.LayerNorm(token_width)

    def forward(self, states: Tensor) -> Tensor:
        """(B, T, width) -> (B, tokens, token_width)."""
        x = self.proj_in(states)
        latents = self.latents.expand(len(states), -1, -1)
        for layer in self.layers:
            attention, feed_forward = layer.children()
            latents = attention(x, latents) + latents
            latents = feed_forward(latents) + latents
        return self.norm_out(self.proj_out(latents))


class TimeEmbedding(nn.Module):
    """A timestep's sinusoid -> the width of the latents."""

    def __init__(self, waves: int, dim: int) -> None:
        super().__init__()
        self.waves = waves
        self.linear_1 = nn.Linear(waves, dim)
        self.linear_2 = nn.Linear(dim, dim)

    def forward(self, timestep: Tensor) -> Tensor:
        """(B,) -> (B, dim)."""
        half = self.waves // 2
        rates = torch.exp(-math.log(10_000) * torch.arange(half, device=timestep.device) / half)
        angles = timestep.float()[:, None] * rates
        waves = torch.cat([angles.cos(), angles.sin()], dim=1).to(self.linear_1.weight.dtype)
        return self.linear_2(F.silu(self.linear_1(waves)))


class TimeResampler(nn.Module):
    """SD3.5's: a resampler that is told the timestep; arguments as ``Resampler``'s, and the width of its sinusoid."""

    def __init__(
        self, width: int, dim: int, inner: int, hidden: int, token_width: int, tokens: int, depth: int, waves: int
    ) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.empty(1, tokens, dim))
        self.time_embedding = TimeEmbedding(waves, dim)
        self.proj_in = nn.Linear(width, dim)
        self.layers = nn.ModuleList(
            nn.ModuleList(
                [
                    PerceiverAttention(dim, inner),
                    _feed_forward(dim, hidden),
                    nn.Sequential(nn.SiLU(), nn.Linear(dim, 4 * dim)),
                ]
            )
            for _ in range(depth)
        )
        self.proj_out = nn.Linear(dim, token_width)
        self.norm_out = nn.LayerNorm(token_width)

    def forward(self, states: Tensor, timestep: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, width) and (B,) -> (B, tokens, token_width), and the embedded timestep (B, dim)."""
        emb = self.time_embedding(timestep)
        x = self.proj_in(states) + emb[:, None]
        latents = self.latents.expand(len(states), -1, -1)
        for layer in self.layers:
            attention, feed_forward, modulation = layer.children()
            shift, scale, mlp_shift, mlp_scale = modulation(emb).chunk(4, dim=1)
            latents = attention(x, latents, shift, scale) + latents
            norm, *rest = feed_forward.children()
            h = modulated(norm(latents), mlp_shift, mlp_scale)
            for part in rest:
                h = part(h)
            latents = h + latents
        return self.norm_out(self.proj_out(latents)), emb


def modulated(x: Tensor, shift: Tensor | None, scale: Tensor | None) -> Tensor:
    """x * (1 + scale) + shift for tokens (B, T, C) and one shift and scale a picture, (B, C) each."""
    return x if shift is None or scale is None else x * (1 + scale[:, None]) + shift[:, None]


def _heads(x: Tensor) -> Tensor:
    """(B, T, inner) -> (B, heads, T, 64)."""
    return x.unflatten(2, (-1, HEAD)).transpose(1, 2)
