"""Each guidance network, written in a file's layout and read back, answers as diffusers' does with the same weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from backend.checkpoints.diffusers_layout import unet_to_diffusers
from backend.control.load import Control, load_control
from backend.formats.control import detect_control
from backend.formats.control_configs import T2IAdapterConfig
from backend.formats.reader import read_header
from backend.nn.controlnet import ControlNet
from backend.nn.controlnet_union import UnionControlNet
from backend.nn.layers import sinusoid
from backend.nn.mmdit_control import JointControl, SingleControl
from backend.nn.t2i_adapter import T2IAdapter, feature_places
from tests import builders
from tests.control import tiny
from tests.nn.test_published_keys import SD1, SDXL
from tests.oracles.diffusers_networks import diffusers_unet

pytestmark = pytest.mark.oracle


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def close(ours: Tensor, theirs: Tensor) -> None:
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() < 3e-5 * theirs.abs().max()


def saved(theirs: nn.Module, folder: Path, seed: int = 0) -> Control:
    """Fill diffusers' network with random numbers, write it as it writes itself, and read it as ours."""
    builders.randomise(theirs, seed)
    path = folder / "control.safetensors"
    safetensors.torch.save_file({k: t.contiguous() for k, t in theirs.state_dict().items()}, path)
    return load_control(detect_control(read_header(path)))


def unet_inputs(batch: int = 2) -> dict[str, Any]:
    text, sizes = numbers(batch, 128), torch.tensor([[64.0, 64, 0, 0, 64, 64]]).expand(batch, 6)
    return {
        "x": numbers(batch, 4, 8, 8),
        "t": torch.tensor([12.0, 700.0])[:batch],
        "context": numbers(batch, 7, 192),
        "pooled": torch.cat([text, sinusoid(sizes.flatten(), 256).reshape(batch, -1)], dim=1),
        "added": {"text_embeds": text, "time_ids": sizes},
    }


def test_controlnet_matches_diffusers(tmp_path):
    theirs = tiny.diffusers_controlnet()
    control = saved(theirs, tmp_path)
    assert isinstance(control.network, ControlNet)
    assert (control.info.kind, control.info.family, control.info.layout) == ("ControlNet", "sdxl", "diffusers")
    assert control.network.control == tiny.CONTROLNET
    given, hint = unet_inputs(), numbers(2, 3, 64, 64).sigmoid()
    with torch.inference_mode():
        want = theirs(given["x"], given["t"], given["context"], hint, added_cond_kwargs=given["added"])
        prepared = control.network.prepare_hint(hint)
        got = control.network(given["x"], given["t"], given["context"], given["pooled"], prepared)
    assert list(got.skips) == list(range(6))
    for ours, residual in zip(got.skips.values(), want.down_block_res_samples, strict=True):
        close(ours, residual)
    close(got.middle, want.mid_block_res_sample)


def test_guided_unet_gives_what_diffusers_guided_unet_gives(tmp_path):
    theirs = tiny.diffusers_controlnet()
    control = saved(theirs, tmp_path)
    unet, given, hint = builders.tiny_unet(), unet_inputs(), numbers(2, 3, 64, 64).sigmoid()
    their_unet = diffusers_unet(unet.config)
    their_unet.load_state_dict(unet_to_diffusers(unet.state_dict(), unet.config))
    with torch.inference_mode():
        residuals = theirs(
            given["x"], given["t"], given["context"], hint, conditioning_scale=0.7, added_cond_kwargs=given["added"]
        )
        want = their_unet(
            given["x"], given["t"], given["context"], added_cond_kwargs=given["added"],
            down_block_additional_residuals=residuals.down_block_res_samples,
            mid_block_additional_residual=residuals.mid_block_res_sample,
        ).sample  # fmt: skip
        ours = control.network(
            given["x"], given["t"], given["context"], given["pooled"], control.network.prepare_hint(hint)
        ).scaled(0.7)
        close(unet(given["x"], given["t"], given["context"], given["pooled"], residuals=ours), want)


def test_controlnet_without_transformers_matches_diffusers(tmp_path):
    """The "small" distillations: no attention at all, one residual block in the middle."""
    theirs = tiny.diffusers_controlnet(
        down_block_types=("DownBlock2D",) * 3, mid_block_type="UNetMidBlock2D", cross_attention_dim=None
    )
    control = saved(theirs, tmp_path)
    unet = control.network.control.unet
    assert (unet.depth_in, unet.depth_mid, unet.context_dim) == ((0, 0, 0), 0, 0)
    given, hint = unet_inputs(), numbers(2, 3, 64, 64).sigmoid()
    with torch.inference_mode():
        want = theirs(given["x"], given["t"], given["context"], hint, added_cond_kwargs=given["added"])
        network = control.network
        got = network(given["x"], given["t"], given["context"], given["pooled"], network.prepare_hint(hint))
    close(got.middle, want.mid_block_res_sample)
    close(got.skips[5], want.down_block_res_samples[5])


@pytest.mark.parametrize("tasks", [(3,), (0, 5)], ids=["one hint", "two hints"])
def test_union_controlnet_matches_diffusers(tmp_path, tasks: tuple[int, ...]):
    theirs = tiny.diffusers_controlnet(union=True)
    control = saved(theirs, tmp_path)
    assert isinstance(control.network, UnionControlNet)
    assert control.info.kind == "ControlNet Union"
    assert control.network.control == tiny.UNION
    for layer in theirs.transformer_layes:
        layer.attn.batch_first = True  # else pictures of a batch attend to each other: see TaskAttention
    given = unet_inputs()
    hints = {task: numbers(2, 3, 64, 64, seed=task).sigmoid() for task in tasks}
    flags = torch.tensor([[float(task in tasks) for task in range(6)]] * 2)
    with torch.inference_mode():
        want = theirs(
            given["x"], given["t"], given["context"], [*hints.values()], flags, list(tasks),
            added_cond_kwargs=given["added"],
        )  # fmt: skip
        prepared = {task: control.network.prepare_hint(hint) for task, hint in hints.items()}
        got = control.network(given["x"], given["t"], given["context"], given["pooled"], prepared)
    for ours, residual in zip(got.skips.values(), want.down_block_res_samples, strict=True):
        close(ours, residual)
    close(got.middle, want.mid_block_res_sample)


@pytest.mark.parametrize("config", [tiny.T2I_XL, tiny.T2I_SD1, tiny.T2I_LIGHT], ids=["XL", "SD1", "light"])
def test_t2i_adapter_matches_diffusers(tmp_path, config: T2IAdapterConfig):
    theirs = tiny.diffusers_t2i(config)
    control = saved(theirs, tmp_path)
    assert isinstance(control.network, T2IAdapter)
    assert control.network.control == config
    assert control.info.family == ("sdxl" if config.unshuffle == 16 else "sd1")
    hint = numbers(2, 3, 128, 128).sigmoid()
    with torch.inference_mode():
        for ours, feature in zip(control.network(hint), theirs(hint), strict=True):
            close(ours, feature)


def test_t2i_features_go_where_the_published_ones_fit():
    assert feature_places(SDXL) == ([3, 5, 8], True)
    assert feature_places(SD1) == ([2, 5, 8, 11], False)


@pytest.mark.parametrize("hint_channels", [16, 17], ids=["plain", "with a mask"])
def test_joint_control_matches_diffusers(tmp_path, hint_channels: int):
    config = replace(tiny.JOINT, hint_channels=hint_channels)
    theirs = tiny.diffusers_mmdit_control(config)
    control = saved(theirs, tmp_path)
    assert isinstance(control.network, JointControl)
    assert control.network.control == config
    x, t, context, pooled = numbers(2, 16, 12, 8), torch.tensor([40.0, 900.0]), numbers(2, 9, 256), numbers(2, 192)
    hint = numbers(2, hint_channels, 12, 8)
    with torch.inference_mode():
        (want,) = theirs(x, hint, 1.0, context, pooled, t, return_dict=False)
        got = control.network(x, t, context, pooled, control.network.prepare_hint(hint))
    for ours, residual in zip(got, want, strict=True):
        close(ours, residual)


def test_chained_control_matches_diffusers(tmp_path):
    """Stability's 8B kind; diffusers is handed the main network's image tokens, as its pipeline does it."""
    theirs = tiny.diffusers_mmdit_control(tiny.CHAINED)
    control = saved(theirs, tmp_path)
    assert isinstance(control.network, SingleControl)
    assert control.network.control == tiny.CHAINED
    main = builders.tiny_mmdit(builders.TINY_MMDIT)
    x, t, pooled, hint = numbers(2, 16, 12, 8), torch.tensor([40.0, 900.0]), numbers(2, 192), numbers(2, 16, 12, 8)
    with torch.inference_mode():
        (want,) = theirs(main.embed_image(x), hint, 1.0, None, pooled, t, return_dict=False)
        got = control.network(main, x, t, pooled, control.network.prepare_hint(hint))
    for ours, residual in zip(got, want, strict=True):
        close(ours, residual)
