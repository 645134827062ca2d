"""Who sees which text: laws of one attention of a tiny U-Net and a tiny MMDiT."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from backend.diffusion.conditioning import Conditioning
from backend.diffusion.patched import Patched, region_tokens
from backend.diffusion.patching import QKV, AttentionBias, AttentionOutput, Call, Patch, Place, Scope
from extensions.regions.attention import RegionalBias, RegionalText, regional_text
from extensions.regions.layout import extents, shares, split_masks
from tests.builders import TINY_MMDIT_X, TINY_UNET, tiny_mmdit, tiny_unet

SIDE, TOKENS = 8, 5


class Rig:
    """A network, parts of a prompt, and what its first attention to the text gave."""

    def __init__(self, name: str) -> None:
        self.network = tiny_unet() if name == "unet" else tiny_mmdit()
        config = TINY_UNET if name == "unet" else TINY_MMDIT_X
        draw = torch.Generator().manual_seed(3)
        pooled = TINY_UNET.label_dim if name == "unet" else TINY_MMDIT_X.pooled_dim
        self.x = torch.randn(1, config.in_channels, SIDE, SIDE, generator=draw)
        self.parts = [torch.randn(1, TOKENS, config.context_dim, generator=draw) for _ in range(4)]
        self.pooled = torch.randn(1, pooled, generator=draw)
        kinds = ("cross", "joint")
        self.place = next(place for place in self.network.places if place.attention in kinds)

    def text(self, *numbers: int) -> RegionalText:
        parts = [Conditioning(self.parts[number], None) for number in numbers]
        return regional_text(parts, self.pooled, range(len(parts)))

    def first(self, text: RegionalText, bias: RegionalBias | None) -> tuple[Tensor, QKV]:
        """What the first attention to the text gives, (1, heads, tokens, head_dim), and of what."""
        seen: list[tuple[Tensor, QKV]] = []

        def keep(out: Tensor, qkv: QKV, place: Place, call: Call) -> Tensor:
            if place == self.place:
                seen.append((out, qkv))
            return out

        patches: list[Patch] = [AttentionOutput(change=keep)]
        if bias is not None:
            bias.add(text)
            patches.append(AttentionBias(bias=bias, scope=Scope(attentions=("cross", "joint"))))
        call = self.call(text)
        with torch.inference_mode():
            self.network(self.x, torch.tensor([500.0]), text.conditioning.context, self.pooled,
                         patches=Patched(patches, call))  # fmt: skip
        return seen[0]

    def call(self, *texts: RegionalText) -> Call:
        tokens = max(text.conditioning.tokens for text in texts)
        names = tuple(f"branch {number}" for number in range(len(texts)))
        read = tuple(text.conditioning for text in texts)
        return Call(0, 4, 1.0, names, 1, SIDE, SIDE, tokens, read)

    def image_tokens(self, region: Tensor, call: Call) -> Tensor:
        """Which tokens of the first attention lie in a region, as a mask over all of them."""
        inside = region_tokens(region, call, self.place) == 1
        return torch.cat([torch.zeros(call.text_tokens, dtype=torch.bool), inside]) if self.is_joint else inside

    @property
    def is_joint(self) -> bool:
        return self.place.attention == "joint"


@pytest.fixture(params=["unet", "mmdit"])
def rig(request: pytest.FixtureRequest) -> Rig:
    return Rig(str(request.param))


def halves(isolation: float = 1.0, weights: Sequence[float] = (1.0, 1.0), base: float | None = None) -> RegionalBias:
    masks = split_masks("1,1", SIDE, SIDE)
    counted = shares(masks, list(weights), base)
    return RegionalBias(counted, extents(masks, has_base=base is not None), isolation)


LEFT, RIGHT = split_masks("1,1", SIDE, SIDE)


def test_a_region_sees_its_own_prompt_alone(rig: Rig) -> None:
    one, _ = rig.first(rig.text(0, 1), halves())
    other, _ = rig.first(rig.text(0, 2), halves())
    call = rig.call(rig.text(0, 1))
    left, right = rig.image_tokens(LEFT, call), rig.image_tokens(RIGHT, call)
    assert torch.equal(one[:, :, left], other[:, :, left])
    assert (one[:, :, right] != other[:, :, right]).any()
    plain, _ = rig.first(rig.text(0, 1), None)
    different, _ = rig.first(rig.text(0, 2), None)
    assert (plain[:, :, left] != different[:, :, left]).any(), "without the bias it sees both"


def test_it_is_the_attention_to_that_prompt(rig: Rig) -> None:
    out, (q, k, v) = rig.first(rig.text(0, 1), halves())
    call = rig.call(rig.text(0, 1))
    left = rig.image_tokens(LEFT, call)
    seen = torch.ones(k.shape[2], dtype=torch.bool)
    seen[TOKENS : 2 * TOKENS] = False
    want = F.scaled_dot_product_attention(q[:, :, left], k[:, :, seen], v[:, :, seen])
    torch.testing.assert_close(out[:, :, left], want, rtol=1e-5, atol=1e-6)


def test_text_tokens_of_isolated_regions_do_not_read_each_other() -> None:
    rig = Rig("mmdit")
    own = slice(0, TOKENS)
    one, other = (rig.first(rig.text(0, number), halves())[0] for number in (1, 2))
    assert torch.equal(one[:, :, own], other[:, :, own])
    one, other = (rig.first(rig.text(0, number), halves(isolation=0.5))[0] for number in (1, 2))
    assert (one[:, :, own] != other[:, :, own]).any()


def test_a_text_that_is_isolated_looks_at_its_own_region() -> None:
    rig = Rig("mmdit")
    out, (q, k, v) = rig.first(rig.text(0, 1), halves())
    call = rig.call(rig.text(0, 1))
    seen = rig.image_tokens(LEFT, call)
    seen[:TOKENS] = True
    want = F.scaled_dot_product_attention(q[:, :, :TOKENS], k[:, :, seen], v[:, :, seen])
    torch.testing.assert_close(out[:, :, :TOKENS], want, rtol=1e-5, atol=1e-6)


def test_halves_of_the_same_prompt_are_the_prompt(rig: Rig) -> None:
    """The image tokens; what they see twice as many of has half the weight."""
    text, even = rig.text(0, 0), torch.full((2, SIDE, SIDE), 0.5)
    out, _ = rig.first(text, RegionalBias(even, torch.ones_like(even), 1.0))
    plain, _ = rig.first(rig.text(0), None)
    images = out[:, :, 2 * TOKENS :] if rig.is_joint else out
    want = plain[:, :, TOKENS:] if rig.is_joint else plain
    torch.testing.assert_close(images, want, rtol=1e-4, atol=1e-5)


def test_one_part_needs_no_bias_and_neither_does_a_branch_that_reads_another_text(rig: Rig) -> None:
    alone, foreign = rig.text(0), rig.text(0, 1)
    bias = halves()
    bias.add(alone)
    q = torch.zeros(1, 1, 4, 2)
    assert bias(QKV(q, q, q), rig.place, rig.call(alone)) is None
    assert bias(QKV(q, q, q), rig.place, rig.call(foreign)) is None


def test_branches_of_one_call_have_their_own_rows() -> None:
    rig = Rig("unet")
    bias = halves()
    text, foreign = bias.add(rig.text(0, 1)), rig.text(2)
    tokens = SIDE * SIDE // rig.place.scale**2
    q, k = torch.zeros(2, 1, tokens, 4), torch.zeros(2, 1, 2 * TOKENS, 4)
    rows = bias(QKV(q, k, k), rig.place, rig.call(text, foreign))
    assert rows is not None
    assert rows.shape == (2, 1, tokens, 2 * TOKENS)
    assert (rows[1] == 0).all()
    assert torch.isinf(rows[0]).any()
    q, k = torch.zeros(2, 1, tokens, 4), torch.zeros(2, 1, 4 * TOKENS, 4)  # repeated beside a longer prompt
    twice = bias(QKV(q, k, k), rig.place, rig.call(text, foreign))
    assert twice is not None
    assert torch.equal(twice[:1], rows[:1].repeat(1, 1, 1, 2))
