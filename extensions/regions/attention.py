"""All regions in one evaluation: their prompts one after another, and who may look at which.

An image token gives each prompt's tokens the share that the prompt has where it lies: ln(share) is added to their
scores, so that a prompt without a share there is not seen, and two with half of it are mixed. In a U-Net's cross
attention that is all. In an MMDiT's joint attention the text tokens look, too: with full isolation those of a region at
nothing but themselves and the image tokens of their region; otherwise they would carry one region's words to another.
The same as Regional Prompter's and Forge Couple's attention in effect, as a bias instead of one attention a region, so
that it goes together with whatever else replaces an attention.

Source: for the mask of the joint attention Chen et al. 2024, arXiv:2411.02395 (section 3.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from backend.api import QKV, Call, Conditioning, Place, region_tokens, token_grid


@dataclass(frozen=True, eq=False)
class RegionalText:
    """The prompts of all parts as one context.

    Args:
        conditioning: their tokens one after another.
        lengths: how many tokens each has.
        numbers: of the parts, as the shares are ordered; one that has no share anywhere is left out.
    """

    conditioning: Conditioning
    lengths: tuple[int, ...]
    numbers: tuple[int, ...]


class RegionalBias:
    """What is added to the scores of the attentions that read text.

    Args:
        shares: (parts, h, w), how much each part's prompt counts where; they sum to 1. On the CPU: what is added is
            made there, once for each size, and kept where the network is.
        extents: (parts, h, w), where each part is at all, 0 to 1; all of the picture for a base prompt.
        isolation: 0 to 1, of the parts' texts from each other.
    """

    def __init__(self, shares: Tensor, extents: Tensor, isolation: float) -> None:
        self._shares = shares
        self._extents = extents
        self._isolation = isolation
        self._texts: dict[int, RegionalText] = {}
        self._known: dict[tuple[object, ...], Tensor] = {}

    def add(self, text: RegionalText) -> RegionalText:
        """Make a context's parts known; only branches that read such a one are changed."""
        self._texts[id(text.conditioning)] = text
        return text

    def __call__(self, qkv: QKV, place: Place, call: Call) -> Tensor | None:
        """(1 or B, 1, T, S), or None where no branch reads more than one part."""
        read = [self._texts.get(id(conditioning)) for conditioning in call.conditioning]
        read = [text if text is not None and len(text.lengths) > 1 else None for text in read]
        if not any(read):
            return None
        rows = [self._bias(text, qkv, place, call) for text in read]
        if len(rows) == 1:
            return rows[0]
        return torch.cat([row.expand(call.images, -1, -1, -1) for row in rows])

    def _bias(self, text: RegionalText | None, qkv: QKV, place: Place, call: Call) -> Tensor:
        rows, columns = qkv.q.shape[2], qkv.k.shape[2]
        key = (id(text), call.tile, token_grid(call, place), rows, columns, qkv.q.dtype, qkv.q.device)
        if key not in self._known:
            bias = torch.zeros(rows, columns)
            if text is not None and place.attention == "joint":
                bias = self._joint(text, place, call)
            elif text is not None:
                bias = self._seen(text, place, call).repeat(1, columns // sum(text.lengths))
            self._known[key] = bias.to(qkv.q)[None, None]
        return self._known[key]

    def _seen(self, text: RegionalText, place: Place, call: Call) -> Tensor:
        """What image tokens see of the text, (N, T)."""
        parts = torch.stack([region_tokens(self._shares[number], call, place) for number in text.numbers], dim=1)
        return parts.log().repeat_interleave(torch.tensor(text.lengths), dim=1)

    def _joint(self, text: RegionalText, place: Place, call: Call) -> Tensor:
        """Text tokens first, (T + N, T + N)."""
        tokens = sum(text.lengths)
        seen = self._seen(text, place, call)
        bias = torch.zeros(tokens + len(seen), tokens + len(seen))
        bias[tokens:, :tokens] = seen
        bias[:tokens, :tokens] = torch.full((tokens, tokens), 1 - self._isolation).log()
        start = 0
        for number, length in zip(text.numbers, text.lengths, strict=True):
            own = slice(start, start + length)
            bias[own, own] = 0
            outside = 1 - region_tokens(self._extents[number], call, place)
            bias[own, tokens:] = (1 - self._isolation * outside).log()
            start += length
        return bias


def regional_text(parts: Sequence[Conditioning], pooled: Tensor | None, numbers: Sequence[int]) -> RegionalText:
    """Several prompts as one context with the pooled vector of all."""
    context = torch.cat([part.context for part in parts], dim=1)
    return RegionalText(Conditioning(context, pooled), tuple(part.tokens for part in parts), tuple(numbers))
