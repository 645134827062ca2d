"""Tiled Diffusion in one job with what looks at places: ControlNets, regions, guidance, a step cache."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from backend.api import ModelCall
from backend.diffusion.patched import check_patches
from backend.diffusion.patching import BlockOutput, PatchRefused, Scope
from backend.engine.engine import Engine
from backend.plugins import ExtensionFailed
from extensions.controlnet.tests.networks import write_networks
from tests.builders import tiny_checkpoint, tiny_unet
from tests.engine.conftest import ask, encoded
from tests.families.running import colours

NETWORKS = {"tiny-xl": "edges-xl", "tiny-sd3": "joint"}
WIDTH, HEIGHT = 96, 64  # 12 x 8 cells: two tiles of 8 x 8, overlapping by half
TILES = {"values": {"side": 8, "overlap": 4}}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiles")
    (folder / "checkpoints").mkdir()
    for name, family in (("tiny-xl", "sdxl"), ("tiny-sd3", "sd3")):
        tiny_checkpoint(folder / "checkpoints" / f"{name}.safetensors", family)
    write_networks(folder / "controlnet")
    return folder


@pytest.fixture(params=NETWORKS)
def checkpoint(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def here(ported, models) -> Engine:
    return ported("tiled_diffusion", models=models)


def made(engine: Engine, checkpoint: str, extensions: dict[str, object], **fields: object) -> np.ndarray:
    request = ask(checkpoint, width=WIDTH, height=HEIGHT, extensions=extensions, **fields)
    return np.asarray(engine.generate(request).pictures[0].image, dtype=np.int16)


def unit(engine: Engine, checkpoint: str, **values: object) -> dict[str, object]:
    picture = engine.inputs.store(encoded(colours(WIDTH, HEIGHT))).sha256
    return {"values": {"network": NETWORKS[checkpoint], "picture": picture, "preprocessor": "none"} | values}


def test_a_controlnet_gets_the_part_of_the_hint_that_lies_where_the_tile_lies(here, checkpoint):
    whole: list[torch.Tensor] = []
    made(here, checkpoint, {"controlnet": unit(here, checkpoint)})
    network = next(r.module for r in here.manager._residents.values() if r.key.part == "network")
    prepare = network.prepare_hint
    network.prepare_hint = lambda hint: whole.append(hint) or prepare(hint)
    try:
        made(here, checkpoint, {"controlnet": unit(here, checkpoint)})
        made(here, checkpoint, {"controlnet": unit(here, checkpoint), "tiles": TILES})
    finally:
        del network.prepare_hint
    full, *parts = whole
    cell = full.shape[-1] // (WIDTH // 8)
    seen = {tuple(map(float, part.flatten()[:3])): part for part in parts}  # both branches, every step
    expected = [full[..., left * cell : (left + 8) * cell] for left in (0, 4)]
    assert len(seen) == 2
    for part in expected:
        assert any(torch.equal(part, other) for other in seen.values())


def test_tiles_and_a_controlnet_go_together_and_leave_nothing_behind(here, checkpoint):
    plain = made(here, checkpoint, {"tiles": TILES})
    guided = made(here, checkpoint, {"tiles": TILES, "controlnet": unit(here, checkpoint)})
    assert np.isfinite(guided).all()
    assert (guided != plain).any()
    assert np.array_equal(made(here, checkpoint, {"tiles": TILES}), plain)
    weightless = made(here, checkpoint, {"tiles": TILES, "controlnet": unit(here, checkpoint, weight=0.0)})
    assert np.array_equal(weightless, plain)


def test_one_tile_as_large_as_the_picture_is_the_guided_picture_to_the_bit(here, checkpoint):
    extensions = {"controlnet": unit(here, checkpoint, weight=0.7)}
    guided = made(here, checkpoint, extensions)
    assert np.array_equal(
        made(here, checkpoint, extensions | {"tiles": {"values": {"side": 12, "overlap": 4}}}), guided
    )


def test_regions_and_a_units_region_lie_in_tiles_where_they_lie_in_the_picture(here, checkpoint):
    """What acts in the left third alone changes no bit of the tile on the right before the latents meet."""
    seen: dict[int, list[torch.Tensor]] = {0: [], 4: []}
    network = here.manager.denoiser(here.catalog.checkpoint(checkpoint))
    handle = network.register_forward_hook(
        lambda _m, args, options, out: seen[options["patches"].call.tile.left].append(out.clone()), with_kwargs=True
    )
    mask = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
    mask[:, :16] = 255  # two cells, outside of the right tile
    region = here.inputs.store(encoded(Image.fromarray(mask))).sha256
    try:
        for extensions in ({}, {"controlnet": unit(here, checkpoint, region=region)}):
            made(here, checkpoint, extensions | {"tiles": TILES}, steps=1)
    finally:
        handle.remove()
    (left, guided), (right, same) = (outs[:: len(outs) // 2] for outs in seen.values())
    assert not torch.equal(left, guided)
    assert torch.equal(right, same)


def test_regions_prompts_and_guidance_run_in_tiles(here, checkpoint):
    fields = {"prompt": "a red heart BREAK a green frog"}
    regions = {"regions": {"values": {"layout": "1,1"}}, "tiles": TILES}
    both = made(here, checkpoint, regions, **fields)
    assert (both != made(here, checkpoint, {"tiles": TILES}, **fields)).any()
    assert np.array_equal(made(here, checkpoint, regions, **fields), both)
    for panel in ("pag", "seg", "step_cache"):
        assert made(here, checkpoint, {"tiles": TILES, panel: {"values": {}}}, steps=4).shape == (HEIGHT, WIDTH, 3)


def test_what_must_see_the_whole_picture_is_refused_and_both_are_named(here, checkpoint):
    with pytest.raises(
        PatchRefused, match=r"tiled_diffusion's tiles hands .* guidance's look at the attention must see"
    ):
        made(here, checkpoint, {"tiles": TILES, "sag": {"values": {}}})


def test_tiles_in_other_steps_than_what_cannot_be_cut_are_fine():
    whole = BlockOutput(change=lambda state, place, call: state, scope=Scope(end=0.5))
    tiling = ModelCall(wrap=lambda x, call, run: run(x), makes_tiles=True, scope=Scope(start=0.5))
    check_patches([whole, tiling], tiny_unet().places)
    inner = ModelCall(wrap=lambda x, call, run: run(x), label="inner")
    check_patches([inner, tiling], tiny_unet().places)  # around the tiles
    with pytest.raises(PatchRefused, match="a patch's inner must see the whole of it"):
        check_patches([tiling, inner], tiny_unet().places)


def test_a_patch_that_does_not_say_that_it_makes_tiles_is_named_when_it_does(here, checkpoint, monkeypatch):
    hooks = sys.modules[
        next(name for name in sys.modules if name.endswith("tiled_diffusion.hooks") and "tests" not in name)
    ]
    monkeypatch.setattr(hooks, "ModelCall", lambda makes_tiles, **rest: ModelCall(**rest))
    with pytest.raises(ExtensionFailed, match=r"tiled_diffusion failed while sampling: its tiles .* makes_tiles=True"):
        made(here, checkpoint, {"tiles": TILES})
