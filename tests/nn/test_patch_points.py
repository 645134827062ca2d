"""Every patch point of the networks, the same calls on a tiny U-Net and a tiny MMDiT."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from backend.diffusion.patched import Patched, check_patches, token_grid
from backend.diffusion.patching import (
    QKV,
    AttentionBias,
    AttentionInput,
    AttentionOutput,
    AttentionReplace,
    BlockInput,
    BlockOutput,
    BlockReplace,
    Call,
    PatchRefused,
    Scope,
    SkipBlock,
)
from tests.builders import TINY_MMDIT_X, TINY_UNET, tiny_mmdit, tiny_unet

NAMES = ["unet", "mmdit"]
SIDE = 8


class Rig:
    """A network with inputs for one call."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.network = tiny_unet() if name == "unet" else tiny_mmdit()
        config = TINY_UNET if name == "unet" else TINY_MMDIT_X
        draw = torch.Generator().manual_seed(3)
        pooled = TINY_UNET.label_dim if name == "unet" else TINY_MMDIT_X.pooled_dim
        self.x = torch.randn(2, config.in_channels, SIDE, SIDE, generator=draw)
        self.context = torch.randn(2, 7, config.context_dim, generator=draw)
        self.pooled = torch.randn(2, pooled, generator=draw)
        self.middle = "middle.0" if name == "unet" else "joint.1"
        self.own = "self" if name == "unet" else "joint"

    def run(self, *patches) -> Tensor:
        call = Call(0, 4, 1.0, ("cond", "uncond"), 1, SIDE, SIDE, 7)
        patched = Patched(patches, call) if patches else None
        return self.network(self.x, torch.tensor([500.0, 500.0]), self.context, self.pooled, patches=patched)


@pytest.fixture(params=NAMES)
def rig(request) -> Rig:
    return Rig(request.param)


def seen(kind, **options):
    """A patch that changes nothing and keeps the places at which it was called."""
    places: list = []
    same = {
        AttentionInput: lambda qkv, place, call: places.append(place) or qkv,
        AttentionBias: lambda qkv, place, call: places.append(place),
        AttentionReplace: lambda qkv, place, call, attend: places.append(place) or attend(qkv),
        AttentionOutput: lambda out, qkv, place, call: places.append(place) or out,
        BlockInput: lambda state, place, call: places.append(place) or state,
        BlockReplace: lambda state, place, call, run: places.append(place) or run(state),
        BlockOutput: lambda state, place, call: places.append(place) or state,
    }[kind]
    field = {AttentionBias: "bias", AttentionReplace: "replace", BlockReplace: "replace"}.get(kind, "change")
    return kind(**{field: same}, **options), places


ATTENTIONS = (AttentionInput, AttentionBias, AttentionReplace, AttentionOutput)
BLOCKS = (BlockInput, BlockReplace, BlockOutput)


@pytest.mark.parametrize("kind", [*ATTENTIONS, *BLOCKS])
def test_a_patch_that_changes_nothing_is_called_everywhere_and_leaves_the_bits(rig, kind):
    patch, places = seen(kind)
    with torch.inference_mode():
        assert torch.equal(rig.run(patch), rig.run())
    expected = [place for place in rig.network.places if (place.attention is not None) == (kind in ATTENTIONS)]
    assert sorted(places, key=repr) == sorted(expected, key=repr)
    assert [p.number for p in places if p.attention is None] == sorted(p.number for p in places if p.attention is None)


@pytest.mark.parametrize("kind", [*ATTENTIONS, *BLOCKS])
def test_a_scope_of_one_block_is_kept(rig, kind):
    patch, places = seen(kind, scope=Scope(blocks=(rig.middle,)))
    with torch.inference_mode():
        rig.run(patch)
    assert {place.block for place in places} == {rig.middle}


def changed(kind, scope):
    double = {
        AttentionInput: lambda qkv, place, call: QKV(qkv.q * 2, qkv.k, qkv.v),
        AttentionBias: lambda qkv, place, call: torch.linspace(-3, 3, qkv.k.shape[2]),
        AttentionReplace: lambda qkv, place, call, attend: attend(qkv) * 2,
        AttentionOutput: lambda out, qkv, place, call: out + 1,
        BlockInput: lambda state, place, call: state._replace(image=state.image * 2),
        BlockReplace: lambda state, place, call, run: state,
        BlockOutput: lambda state, place, call: state._replace(image=state.image + 1),
    }[kind]
    field = {AttentionBias: "bias", AttentionReplace: "replace", BlockReplace: "replace"}.get(kind, "change")
    return kind(**{field: double}, scope=scope)


@pytest.mark.parametrize("kind", [*ATTENTIONS, *BLOCKS])
def test_a_change_changes_and_leaves_nothing_behind(rig, kind):
    with torch.inference_mode():
        before = rig.run()
        assert not torch.equal(rig.run(changed(kind, Scope(blocks=(rig.middle,)))), before)
        assert torch.equal(rig.run(), before)


def test_a_patch_that_raises_leaves_nothing_behind(rig):
    def explode(state, place, call):
        raise RuntimeError("bang")

    with torch.inference_mode():
        before = rig.run()
        with pytest.raises(RuntimeError, match="bang"):
            rig.run(BlockInput(change=explode, scope=Scope(blocks=(rig.middle,))))
        assert torch.equal(rig.run(), before)


def test_a_skipped_block_is_the_block_replaced_by_nothing_on_an_mmdit_and_its_transformer_on_a_unet(rig):
    skip = SkipBlock(scope=Scope(blocks=(rig.middle,)))
    with torch.inference_mode():
        result = rig.run(skip)
        assert not torch.equal(result, rig.run())
        if rig.name == "mmdit":
            inputs = (rig.x, torch.tensor([500.0, 500.0]), rig.context, rig.pooled)
            assert torch.equal(result, rig.network(*inputs, skip_blocks=frozenset({1})))
            return
        rig.network.middle_block[1].forward = lambda h, context, patches=None: h
        assert torch.equal(result, rig.run())


@pytest.mark.parametrize("kind", [AttentionOutput, AttentionReplace, BlockOutput])
def test_a_region_keeps_a_change_to_its_part_of_the_tokens(rig, kind):
    region = torch.zeros(SIDE, SIDE)
    region[:, : SIDE // 2] = 1
    kept: dict = {}

    def look(state, place, call):
        kept["state"] = state
        return state

    last = next(place for place in reversed(rig.network.places) if place.attention is None)
    # One change at the last place, so that nothing mixes tokens afterwards.
    where = Scope(blocks=(last.block,))
    patch = changed(kind, Scope(blocks=(last.block,), region=region))
    if kind is not BlockOutput and not any(p.block == last.block and p.attention for p in rig.network.places):
        pytest.skip("the U-Net's last block has no attention")
    with torch.inference_mode():
        rig.run(BlockOutput(change=look, scope=where))
        plain = kept["state"].image
        rig.run(patch, BlockOutput(change=look, scope=where))
        patched = kept["state"].image
    if patched.ndim == 3:
        rows, columns = token_grid(Call(0, 1, 1.0, ("cond",), 1, SIDE, SIDE, 7), last)
        plain, patched = (t.view(2, rows, columns, -1).movedim(3, 1) for t in (plain, patched))
    half = patched.shape[3] // 2
    assert torch.allclose(patched[..., half:], plain[..., half:], atol=1e-6) or kind is AttentionReplace
    assert not torch.allclose(patched[..., :half], plain[..., :half], atol=1e-3)


def test_replacements_that_meet_name_both_and_others_compose(rig):
    first = changed(BlockReplace, Scope(blocks=(rig.middle,)))
    second = BlockReplace(replace=first.replace, label="second", owner="beta")
    with pytest.raises(PatchRefused, match="beta's second"):
        check_patches([first, second], rig.network.places)
    later = BlockReplace(replace=first.replace, scope=Scope(start=0.5))
    check_patches([BlockReplace(replace=first.replace, scope=Scope(end=0.5)), later], rig.network.places)
    one = BlockReplace(replace=first.replace, scope=Scope(branches=("cond",)))
    check_patches([one, BlockReplace(replace=first.replace, scope=Scope(branches=("uncond",)))], rig.network.places)
    check_patches([changed(BlockOutput, Scope()), changed(BlockOutput, Scope())], rig.network.places)


@pytest.mark.parametrize(("patch", "unet", "mmdit"), [
    (lambda: changed(BlockOutput, Scope(blocks=("joint.0",))), False, True),
    (lambda: changed(BlockOutput, Scope(blocks=("output.*",))), True, False),
    (lambda: changed(AttentionOutput, Scope(attentions=("cross",))), True, False),
    (lambda: changed(AttentionOutput, Scope(attentions=("image",))), False, True),
    (lambda: SkipBlock(scope=Scope(blocks=("input.0",))), False, False),
])  # fmt: skip
def test_a_patch_that_the_network_cannot_honour_is_refused_by_name(rig, patch, unet, mmdit):
    made = patch()
    if {"unet": unet, "mmdit": mmdit}[rig.name]:
        check_patches([made], rig.network.places)
    else:
        with pytest.raises(PatchRefused, match=type(made).__name__):
            check_patches([made], rig.network.places)
