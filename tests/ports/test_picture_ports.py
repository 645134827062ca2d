"""Tiled Diffusion, ADetailer and AnimateDiff: tiles, jobs within jobs, and frames that see each other."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from backend.diffusion.sampling_patch import SamplingStart
from backend.errors import BadRequest, Cancelled
from backend.events import Note, Step
from tests.engine.conftest import ask, picture_bytes
from tests.ports.conftest import pixels
from tests.ports.tiled_diffusion.hooks import inverted


def test_one_tile_is_the_plain_picture_and_many_cover_it(ported, checkpoint):
    here = ported("tiled_diffusion")
    plain = pixels(here, checkpoint)
    assert np.array_equal(pixels(here, checkpoint, panel=("tiles", {"side": 8, "overlap": 4})), plain)
    tiled = pixels(here, checkpoint, width=96, height=64, panel=("tiles", {"side": 8, "overlap": 4}))
    assert tiled.shape == (1, 64, 96, 3)
    assert np.isfinite(tiled).all()
    assert (tiled != pixels(here, checkpoint, width=96, height=64)).any()
    assert np.array_equal(pixels(here, checkpoint), plain)


def test_the_network_never_sees_more_than_a_tile(ported, checkpoint):
    here = ported("tiled_diffusion")
    network = here.manager.denoiser(here.catalog.checkpoint(checkpoint))
    seen: list[tuple[int, ...]] = []
    handle = network.register_forward_pre_hook(lambda _module, inputs: seen.append(tuple(inputs[0].shape[-2:])))
    pixels(here, checkpoint, width=128, height=96, panel=("tiles", {"side": 8, "overlap": 4}))
    handle.remove()
    assert set(seen) == {(8, 8)}
    assert len(seen) == 2 * 2 * 3  # steps, rows, columns


def test_a_picture_whose_noise_is_its_own_does_not_depend_on_the_seed(ported, checkpoint):
    here = ported("tiled_diffusion")
    asked = {"init_image": here.inputs.store(picture_bytes()).sha256, "sampler": "euler", "denoise": 0.5}

    def made(inversion: float, seed: int) -> np.ndarray:
        return pixels(here, checkpoint, seed=seed, panel=("tiles", {"inversion": inversion}), **asked)

    assert np.array_equal(made(1.0, 1), made(1.0, 2))
    assert (made(0.5, 1) != made(0.5, 2)).any()
    assert np.array_equal(made(0.0, 1), pixels(here, checkpoint, seed=1, **asked))
    with pytest.raises(BadRequest, match="needs a picture to start from"):
        pixels(here, checkpoint, panel=("tiles", {"inversion": 1.0}))


@pytest.mark.parametrize("steps", [20, 40])
def test_sampling_comes_back_from_the_inverted_noise_to_first_order(steps):
    spread, init = 0.7, torch.randn(1, 4, 6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    sigmas = torch.linspace(2.0, 0.0, steps + 1, dtype=torch.float64)

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:  # exact for normal data of that spread
        return x * spread**2 / (spread**2 + sigma**2)

    x = inverted(SamplingStart(sigmas, torch.zeros_like(init), init, denoise))
    exact = init * (1 + (2.0 / spread) ** 2) ** 0.5
    assert (x - exact).abs().max() < 2.0 / steps * exact.abs().max()
    for sigma, following in pairwise(sigmas):
        x = x + (x - denoise(x, sigma)) / sigma * (following - sigma)
    assert (x - init).abs().max() < 2.2 / steps * init.abs().max()


def test_details_are_painted_anew_and_the_rest_stays_to_the_bit(ported, checkpoint):
    here = ported("adetailer")
    plain = pixels(here, checkpoint, steps=4)[0]
    events: list[object] = []
    request = ask(
        checkpoint, steps=4, extensions={"details": {"version": 1, "values": {"prompt": "a face", "side": 16}}}
    )
    changed = np.asarray(here.generate(request, events.append).pictures[0].image, dtype=np.int16)
    rows, columns = np.nonzero((changed != plain).any(axis=2))
    assert 0 < rows.max() - rows.min() < 16
    assert columns.max() - columns.min() < 16
    assert any(isinstance(event, Note) and "painted anew" in event.text for event in events)
    assert sum(isinstance(event, Step) for event in events) > 4  # the inner job's are told, too


def test_a_cancel_ends_the_inner_job_too(ported, checkpoint):
    here, cancel, steps = ported("adetailer"), threading.Event(), 0

    def stop(event: object) -> None:
        nonlocal steps
        steps += isinstance(event, Step)
        if steps == 5:  # the first of the inner job
            cancel.set()

    request = ask(checkpoint, steps=4, extensions={"details": {"version": 1, "values": {"denoise": 1.0}}})
    with pytest.raises(Cancelled):
        here.generate(request, stop, cancel=cancel)
    assert steps == 5


@pytest.fixture
def motion(models_dir, engine, checkpoint) -> Mapping[str, str]:
    """Files of motion modules for two blocks: one whose last layers are zero, one that moves."""
    network = engine.manager.denoiser(engine.catalog.checkpoint(checkpoint))
    blocks = ("middle.0", "output.0") if checkpoint == "tiny-xl" else ("joint.0", "joint.1")
    widths = {}
    for place in network.places:
        if place.attention is None and place.block in blocks:
            widths[place.block] = _width(network, place.block)
    draw = torch.Generator().manual_seed(3)
    (models_dir / "ip_adapter").mkdir(exist_ok=True)
    for name, share in (("still", 0.0), ("moving", 1.0)):
        tensors: dict[str, Tensor] = {}
        for block, width in widths.items():
            key = block.replace(".", "_")
            tensors[f"{key}.qkv.weight"] = torch.randn(3 * width, width, generator=draw) / width**0.5
            tensors[f"{key}.out.weight"] = share * torch.randn(width, width, generator=draw)
        save_file(tensors, models_dir / "ip_adapter" / f"{name}-{checkpoint}.safetensors")
    return {name: f"{name}-{checkpoint}" for name in ("still", "moving")}


def _width(network, block: str) -> int:
    kind, _, number = block.partition(".")
    if kind == "joint":
        return network.config.hidden
    if kind == "middle":
        return network.middle_block[0].out_layers[-1].out_channels
    return network.output_blocks[int(number)][0].out_layers[-1].out_channels


def test_motion_modules_bind_the_frames_of_a_batch(ported, checkpoint, motion):
    here = ported("animatediff")
    plain = pixels(here, checkpoint, batch_size=3)
    still = pixels(here, checkpoint, batch_size=3, panel=("motion", {"module": motion["still"]}))
    assert np.array_equal(still, plain)
    moving = pixels(here, checkpoint, batch_size=3, panel=("motion", {"module": motion["moving"]}))
    assert all((moved != before).any() for moved, before in zip(moving, plain, strict=True))
    others = pixels(here, checkpoint, batch_size=2, panel=("motion", {"module": motion["moving"]}))
    assert (others[0] != moving[0]).any()  # the same seed beside other frames
    assert np.array_equal(pixels(here, checkpoint, batch_size=3), plain)
    with pytest.raises(BadRequest, match="One frame is no motion"):
        pixels(here, checkpoint, panel=("motion", {"module": motion["moving"]}))
