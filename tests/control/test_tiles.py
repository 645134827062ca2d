"""Networks that see a tile of the latent: hints, positions and regions are those of the place where it lies."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import pytest
import torch
from torch import Tensor, nn

from backend.control.guide import HintPicture
from backend.diffusion.patched import Patched, region_tokens, seen_region, token_grid
from backend.diffusion.patching import Call, Tile
from backend.diffusion.residuals import UNetResiduals, within
from backend.errors import BadRequest
from backend.formats.control_configs import MMDiTControlConfig
from tests import builders
from tests.control import tiny
from tests.control.test_guide import control_of, guiding, tiny_unet

WHOLE = (16, 12)  # cells
TOP, LEFT, HEIGHT, WIDTH = 4, 2, 10, 8
DRAW = torch.Generator().manual_seed(1)
PICTURE = torch.rand(1, 3, 8 * WHOLE[0], 8 * WHOLE[1], generator=DRAW)
TIMES = torch.tensor([500.0])
UNET_TEXT = (torch.randn(1, 7, 192, generator=DRAW), torch.randn(1, 128 + 6 * 256, generator=DRAW))
MMDIT_TEXT = (torch.randn(1, 7, 256, generator=DRAW), torch.randn(1, 192, generator=DRAW))
KINDS = {
    "controlnet": tiny.CONTROLNET,
    "union": tiny.UNION,
    "t2i": tiny.T2I_XL,
    "t2i sd1": replace(tiny.T2I_SD1, channels=(32, 64)),
    "joint": tiny.JOINT,
    "chained": tiny.CHAINED,
    "parallel": tiny.PARALLEL,
}


def tile_of(*, own_positions: bool = False) -> Tile:
    return Tile(TOP, LEFT, WHOLE, own_positions)


def part(x: Tensor, scale: int = 1) -> Tensor:
    """The tile's part of something as large as the latent, or ``scale`` times."""
    return x[..., scale * TOP : scale * (TOP + HEIGHT), scale * LEFT : scale * (LEFT + WIDTH)]


def call_of(kind: str, picture: Tensor, network: nn.Module | None = None):
    """A function of x and a tile: the network with the picture as its hint."""
    config = KINDS[kind]
    is_mmdit = isinstance(config, MMDiTControlConfig)
    main = builders.tiny_mmdit(builders.TINY_MMDIT_X if kind == "joint" else builders.TINY_MMDIT) if is_mmdit else None
    control = control_of(config)
    if network is not None:
        control = replace(control, network=network)  # type: ignore[arg-type]
    guide = guiding(control, main or tiny_unet(config), HintPicture(picture, "lines"))
    text = MMDIT_TEXT if is_mmdit else UNET_TEXT

    def run(x: Tensor, tile: Tile | None = None) -> list[Tensor]:
        with torch.inference_mode():
            found = guide(x, TIMES, *text, tile)
        if not isinstance(found, UNetResiduals):
            return list(found)
        middle = [] if found.middle is None else [found.middle]
        return [*found.skips.values(), *found.inputs.values(), *middle]

    return run


def latent(kind: str) -> Tensor:
    channels = 16 if isinstance(KINDS[kind], MMDiTControlConfig) else 4
    return torch.randn(1, channels, *WHOLE, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("kind", KINDS)
def test_a_tile_sees_the_hint_as_if_that_had_been_cut_out_of_the_picture(kind):
    x = part(latent(kind))
    in_tile = call_of(kind, PICTURE)(x, tile_of(own_positions=True))
    cut_out = call_of(kind, part(PICTURE, 8))(x)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(in_tile, cut_out, strict=True))
    elsewhere = call_of(kind, PICTURE)(x, Tile(0, 0, WHOLE, True))
    assert any(not torch.equal(mine, other) for mine, other in zip(in_tile, elsewhere, strict=True))


@pytest.mark.parametrize("kind", ["controlnet", "joint"])
def test_tiles_one_after_another_and_the_whole_do_not_remember_each_other(kind):
    run, x = call_of(kind, PICTURE), latent(kind)
    whole, tiled = run(x), run(part(x), tile_of())
    run(part(x), Tile(0, 0, WHOLE))
    assert all(map(torch.equal, run(part(x), tile_of()), tiled))
    assert all(map(torch.equal, run(x), whole))


def without_attention(network: nn.Module) -> nn.Module:
    """The network with attentions that add nothing: each token is on its own."""
    for name, module in network.named_modules():
        if name.endswith(("attn.proj", "attn2.proj")) and isinstance(module, nn.Linear):
            module.weight.data.zero_()
            module.bias.data.zero_()
    return network


@pytest.mark.parametrize("kind", ["joint", "chained", "parallel"])
def test_a_network_for_the_mmdit_whose_effect_is_local_gives_in_a_tile_what_it_gives_there_in_the_whole(kind):
    network = without_attention(control_of(KINDS[kind]).network)
    run, x = call_of(kind, PICTURE, network), latent(kind)
    grid = (WHOLE[0] // 2, WHOLE[1] // 2)
    for whole, tiled in zip(run(x), run(part(x), tile_of()), strict=True):
        there = whole.unflatten(1, grid)[:, TOP // 2 : (TOP + HEIGHT) // 2, LEFT // 2 : (LEFT + WIDTH) // 2]
        torch.testing.assert_close(tiled, there.flatten(1, 2), atol=1e-5, rtol=1e-5)


def test_the_first_residual_of_a_controlnet_is_the_wholes_but_near_the_tiles_edge():
    run, x = call_of("controlnet", PICTURE), latent("controlnet")
    whole, tiled = run(x)[0], run(part(x), tile_of())[0]
    margin = 3  # cells: what its convolutions see beyond
    inner = (..., slice(margin, HEIGHT - margin), slice(margin, WIDTH - margin))
    torch.testing.assert_close(tiled[inner], part(whole)[inner], atol=1e-5, rtol=1e-5)


def test_a_hint_of_another_size_is_an_error_and_no_tile():
    with pytest.raises(ValueError, match="a latent of 8 x 10 cells for a hint of"):
        call_of("controlnet", PICTURE)(part(latent("controlnet")))


CALL = Call(0, 1, 1.0, ("cond",), 1, *WHOLE, 7)


def test_an_mmdits_tokens_lie_where_the_tile_lies_or_where_a_picture_of_its_own_would():
    network = cast("nn.Module", without_attention(builders.tiny_mmdit(builders.TINY_MMDIT_X)))
    x = latent("joint")
    seen = part(x)

    def run(x: Tensor, call: Call | None = None) -> Tensor:
        with torch.inference_mode():
            return network(x, TIMES, *MMDIT_TEXT, patches=None if call is None else Patched((), call))

    there = CALL.seeing(seen, (TOP, LEFT))
    torch.testing.assert_close(run(seen, there), part(run(x)), atol=1e-5, rtol=1e-5)
    own = CALL.seeing(seen, (TOP, LEFT), own_positions=True)
    assert torch.equal(run(seen, own), run(seen))
    assert not torch.allclose(run(seen, own), part(run(x)), atol=1e-3)
    assert torch.equal(run(x, CALL.seeing(x, (0, 0))), run(x))
    odd = CALL.seeing(x[:, :, 1:9, :8], (1, 0))
    with pytest.raises(BadRequest, match="A tile begins at 0, 1; both must be multiples of 2"):
        run(x[:, :, 1:9, :8], odd)


def test_a_picture_beyond_the_table_of_positions_needs_tiles_of_their_own():
    network = builders.tiny_mmdit(builders.TINY_MMDIT_X)
    cells = 2 * (network.config.pos_embed_side + 8)
    x = torch.zeros(1, 16, 8, 8)
    call = replace(CALL, height=cells, width=cells)
    with pytest.raises(BadRequest, match="tiles with positions of their own"):
        network(x, TIMES, *MMDIT_TEXT, patches=Patched((), call.seeing(x, (4, 4))))
    with torch.inference_mode():
        assert (
            network(x, TIMES, *MMDIT_TEXT, patches=Patched((), call.seeing(x, (4, 4), own_positions=True))).shape
            == x.shape
        )


@pytest.mark.parametrize("build", [builders.tiny_unet, builders.tiny_mmdit])
def test_a_region_in_a_tile_is_that_part_of_the_region(build):
    region = torch.rand(32, 24, generator=DRAW)
    tiled = CALL.seeing(torch.zeros(1, 4, 8, 8), (4, 4))
    for place in build().places:
        grid = token_grid(CALL, place)
        whole = region_tokens(region, CALL, place).view(grid)
        side = place.scale
        there = whole[4 // side : 12 // side, 4 // side : 12 // side]
        torch.testing.assert_close(region_tokens(region, tiled, place).view(token_grid(tiled, place)), there)


def test_a_tile_of_a_tile_lies_in_the_whole():
    x = torch.zeros(1, 4, *WHOLE)
    outer = CALL.seeing(x[:, :, 4:14, 2:10], (4, 2), own_positions=True)
    inner = outer.seeing(x[:, :, :4, :6], (6, 2))
    assert (inner.height, inner.width) == (4, 6)
    assert inner.tile == Tile(10, 4, WHOLE, True)
    with pytest.raises(ValueError, match="no part of"):
        outer.seeing(x[:, :, :4, :6], (8, 2))
    with pytest.raises(ValueError, match="cannot become"):
        outer.seeing(x[:, :, :4, :6], None)
    half = CALL.seeing(x[:, :, ::2, ::2], None)  # the same picture, coarser
    assert (half.height, half.width, half.tile) == (8, 6, None)


def test_residuals_in_a_region_keep_their_place_in_a_tile():
    region = torch.zeros(WHOLE)
    region[:, 6:] = 1
    residual = UNetResiduals(middle=torch.ones(1, 1, HEIGHT, WIDTH))
    call = CALL.seeing(torch.zeros(1, 4, HEIGHT, WIDTH), (TOP, LEFT))
    given = cast("UNetResiduals", within(residual, seen_region(region, call), HEIGHT, WIDTH)).middle
    assert given is not None
    assert given[0, 0, 0].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
