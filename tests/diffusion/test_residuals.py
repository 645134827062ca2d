"""Residuals of guidance networks: where they go in, and that without them nothing changes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from backend.checkpoints.diffusers_layout import mmdit_to_diffusers, unet_to_diffusers
from backend.diffusion.residuals import UNetResiduals, spread, summed, within
from backend.nn.layers import sinusoid
from backend.nn.mmdit import TIMESTEP_WAVES
from tests import builders
from tests.oracles.diffusers_networks import diffusers_mmdit, diffusers_unet


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def close(ours: Tensor, theirs: Tensor) -> None:
    assert (ours - theirs).abs().max() < 3e-5 * theirs.abs().max()


def unet_inputs() -> dict[str, Tensor]:
    text, sizes = numbers(2, 128), torch.tensor([[64.0, 64, 0, 0, 64, 64]]).expand(2, 6)
    waves = sinusoid(sizes.flatten(), 256).reshape(2, -1)
    return {
        "x": numbers(2, 4, 8, 8),
        "timestep": torch.tensor([12.0, 700.0]),
        "context": numbers(2, 7, 192),
        "pooled": torch.cat([text, waves], dim=1),
        "text": text,
        "sizes": sizes,
    }


def run_unet(unet, given: dict[str, Tensor], residuals: UNetResiduals | None = None) -> Tensor:
    with torch.inference_mode():
        return unet(given["x"], given["timestep"], given["context"], given["pooled"], residuals=residuals)


#: Channels and side of what every input block of the tiny U-Net gives for an 8 x 8 latent; then the middle's.
_SHAPES = [(32, 8), (32, 8), (32, 4), (64, 4), (64, 2), (64, 2)]
_MIDDLE = (64, 2)


def skips(seed: int = 0) -> dict[int, Tensor]:
    return {i: numbers(2, c, side, side, seed=seed + i) for i, (c, side) in enumerate(_SHAPES)}


@pytest.mark.parametrize("empty", [None, UNetResiduals()])
def test_unet_without_residuals_gives_its_former_bits(empty: UNetResiduals | None):
    """The network's own parts called one after another, as they stood before there were residuals."""
    unet, given = builders.tiny_unet(), unet_inputs()
    with torch.inference_mode():
        context = unet.prepare_context(given["context"])
        emb = unet.time_embed(sinusoid(given["timestep"], 32)) + unet.label_emb(given["pooled"])
        h, kept = given["x"], []
        for block in unet.input_blocks:
            h = block(h, emb, context)
            kept.append(h)
        h = unet.middle_block(h, emb, context)
        for block in unet.output_blocks:
            h = torch.cat([h, kept.pop()], dim=1)
            h = block(h, emb, context, tuple(kept[-1].shape[2:]) if kept else None)
        want = unet.out(h)
    assert torch.equal(run_unet(unet, given, empty), want)


def test_mmdit_without_residuals_gives_its_former_bits():
    mmdit = builders.tiny_mmdit()
    x, t, context, pooled = numbers(2, 16, 8, 8), torch.tensor([10.0, 900.0]), numbers(2, 9, 256), numbers(2, 192)
    with torch.inference_mode():
        text = mmdit.context_embedder(context)
        h = mmdit.x_embedder(x) + mmdit.positions(4, 4)
        emb = mmdit.t_embedder(sinusoid(t, TIMESTEP_WAVES)) + mmdit.y_embedder(pooled)
        for block in mmdit.joint_blocks:
            text, h = block(text, h, emb)
        h = mmdit.final_layer(h, emb).view(2, 4, 4, 2, 2, -1).permute(0, 5, 1, 3, 2, 4)
        assert torch.equal(mmdit(x, t, context, pooled), h.reshape(2, -1, 8, 8))


@pytest.mark.oracle
@pytest.mark.parametrize("kind", ["ControlNet", "T2I-Adapter"])
def test_unet_residuals_go_in_where_diffusers_adds_them(kind: str):
    unet, given = builders.tiny_unet(), unet_inputs()
    theirs = diffusers_unet(unet.config)
    theirs.load_state_dict(unet_to_diffusers(unet.state_dict(), unet.config))
    added = {"text_embeds": given["text"], "time_ids": given["sizes"]}
    if kind == "ControlNet":
        residuals = UNetResiduals(skips(), numbers(2, *_MIDDLE, 2, seed=9))
        extra = {
            "down_block_additional_residuals": tuple(residuals.skips.values()),
            "mid_block_additional_residual": residuals.middle,
        }
    else:
        # After the first level's downsampling (it has no attention), the other levels' last blocks, and the middle.
        residuals = UNetResiduals({}, numbers(2, *_MIDDLE, 2), {i: t for i, t in skips().items() if i in (2, 3, 5)})
        features = [*residuals.inputs.values(), residuals.middle]
        extra = {"down_intrablock_additional_residuals": [t.clone() for t in features if t is not None]}
    with torch.no_grad():
        want = theirs(given["x"], given["timestep"], given["context"], added_cond_kwargs=added, **extra).sample
    got = run_unet(unet, given, residuals)
    close(got, want)
    assert (got - run_unet(unet, given)).abs().max() > 0.1 * want.std()


def test_residuals_of_two_networks_are_added_and_scaled():
    unet, given = builders.tiny_unet(), unet_inputs()
    one = UNetResiduals(skips(), numbers(2, *_MIDDLE, 2))
    two = UNetResiduals({0: numbers(2, 32, 8, 8, seed=5)}, inputs={1: numbers(2, 32, 8, 8, seed=6)})
    by_hand = UNetResiduals(
        one.skips | {0: 0.5 * one.skips[0] + two.skips[0]} | {i: 0.5 * t for i, t in one.skips.items() if i},
        0.5 * one.middle,
        two.inputs,
    )
    assert torch.equal(run_unet(unet, given, one.scaled(0.5).plus(two)), run_unet(unet, given, by_hand))
    assert torch.equal(run_unet(unet, given, one.scaled(0.0)), run_unet(unet, given))


def test_one_row_of_residuals_serves_a_batch():
    unet, given = builders.tiny_unet(), unet_inputs()
    one = UNetResiduals({i: t[:1] for i, t in skips().items()}, numbers(1, *_MIDDLE, 2))
    both = UNetResiduals({i: t.expand(2, -1, -1, -1) for i, t in one.skips.items()}, one.middle.expand(2, -1, -1, -1))
    assert torch.equal(run_unet(unet, given, one), run_unet(unet, given, both))


@pytest.mark.parametrize(
    ("depth", "count", "want"),
    [(38, 19, [i // 2 for i in range(38)]), (24, 12, [i // 2 for i in range(24)]), (4, 1, [0] * 4), (3, 3, [0, 1, 2]),
     (24, 23, None)],
)  # fmt: skip
def test_fact_11_block_takes_residual_by_its_share(depth: int, count: int, want: list[int] | None):
    residuals = [torch.tensor(float(i)) for i in range(count)]
    taken = [int(spread(residuals, block, depth)) for block in range(depth)]
    assert taken == sorted(taken)
    assert set(taken) == set(range(count))
    if want is not None:
        assert taken == want


@pytest.mark.oracle
def test_fact_11_every_block_gets_a_residual_the_last_one_too():
    """The reference adds after each block; diffusers leaves the last out, so it is given one block more by hand."""
    config = replace(builders.TINY_MMDIT, depth=4)
    mmdit = builders.tiny_mmdit(config)
    x, t, context, pooled = numbers(1, 16, 8, 8), torch.tensor([500.0]), numbers(1, 9, 256), numbers(1, 192)
    residuals = [numbers(1, 16, 128, seed=i) for i in range(2)]
    theirs = diffusers_mmdit(config)
    theirs.load_state_dict(mmdit_to_diffusers(mmdit.state_dict()))
    last = theirs.transformer_blocks[-1]
    with torch.inference_mode():
        without_last = theirs(x, context, pooled, t, block_controlnet_hidden_states=residuals).sample
        hook = last.register_forward_hook(lambda _m, _i, out: (out[0], out[1] + residuals[1]))
        want = theirs(x, context, pooled, t, block_controlnet_hidden_states=residuals).sample
        hook.remove()
        got = mmdit(x, t, context, pooled, residuals=residuals)
    close(got, want)
    assert (got - without_last).std() > 0.1 * want.std()


def test_residuals_of_several_networks_add_up_block_by_block():
    draw = torch.Generator().manual_seed(2)
    few, many = ([torch.randn(1, 4, 3, generator=draw) for _ in range(n)] for n in (4, 6))
    both = summed([few, many])
    for block in range(24):
        assert torch.equal(spread(both, block, 24), spread(few, block, 24) + spread(many, block, 24))


def test_a_region_weights_maps_and_tokens_where_they_lie():
    region = torch.zeros(4, 4)
    region[:, 2:] = 1.0
    (t,) = within([torch.ones(1, 16, 2)], region, 8, 8)
    u = within(UNetResiduals(middle=torch.ones(1, 2, 2, 2)), region, 8, 8)
    assert torch.equal(t[0, :, 0].view(4, 4), region)
    assert torch.equal(u.middle[0, 0], torch.tensor([[0.0, 1.0], [0.0, 1.0]]))
