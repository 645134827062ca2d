"""Guidance networks at work: what each kind is given, what is prepared once, and what does not fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
import torch
from torch import Tensor

from backend.control.fit import check_fits
from backend.control.guide import Guide, HintPicture
from backend.control.hints import latent_hint
from backend.control.load import Control, build_control
from backend.diffusion.residuals import UNetResiduals
from backend.errors import BadRequest
from backend.formats.configs import CheckpointInfo
from backend.formats.constants import SD3_LATENT, SDXL_DEFAULTS
from backend.formats.control_configs import ControlInfo, MMDiTControlConfig, T2IAdapterConfig
from backend.nn.mmdit import MMDiT
from backend.nn.unet import UNet
from tests import builders
from tests.control import tiny

DRAW = torch.Generator().manual_seed(0)
PICTURE = torch.rand(1, 3, 64, 64, generator=DRAW)
UNET_CALL = (
    torch.randn(2, 4, 8, 8, generator=DRAW), torch.tensor([500.0, 500.0]), torch.randn(2, 7, 192, generator=DRAW),
    torch.randn(2, 128 + 6 * 256, generator=DRAW),
)  # fmt: skip
MMDIT_CALL = (
    torch.randn(2, 16, 8, 8, generator=DRAW), torch.tensor([500.0, 500.0]), torch.randn(2, 7, 256, generator=DRAW),
    torch.randn(2, 192, generator=DRAW),
)  # fmt: skip


def control_of(config, *, family: str = "sdxl", hint_type: int | None = None) -> Control:
    network = builders.randomise(build_control(config))
    info = ControlInfo(Path("edges.safetensors"), "edges", "ControlNet", family, config, "whole", "original")
    return Control(info, network, hint_type)  # type: ignore[arg-type]


def squeeze(image: Tensor) -> Tensor:
    """Stands for the VAE."""
    return image.mean(dim=1, keepdim=True)[:, :, ::8, ::8].expand(-1, 16, -1, -1)


def guide_of(config, *, shows=None, mask=None, strength=lambda _n, _of: 1.0, hint_type=None, main=None) -> Guide:
    if main is None:
        main = builders.tiny_mmdit(builders.TINY_MMDIT) if isinstance(config, MMDiTControlConfig) else tiny_unet(config)
    hint = HintPicture(PICTURE, shows, mask)
    control = control_of(config, hint_type=hint_type)
    return guiding(control, main, hint, strength=strength)


def guiding(control: Control, main: UNet | MMDiT, hint: HintPicture, **options) -> Guide:
    """A guide of a network that stays loaded."""
    unet = main.config if isinstance(main, UNet) else None
    return Guide(control, lambda: main, hint, unet=unet, encode=squeeze, constants=SD3_LATENT, **options)


def tiny_unet(config):
    wide = isinstance(config, T2IAdapterConfig) and config.unshuffle == 8
    return builders.tiny_unet(builders.TINY_UNET_SD1 if wide else builders.TINY_UNET)


def test_a_controlnet_answers_as_if_called_by_hand():
    network = control_of(tiny.CONTROLNET).network
    with torch.inference_mode():
        ours = cast("UNetResiduals", guide_of(tiny.CONTROLNET)(*UNET_CALL))
        theirs = network(*UNET_CALL, network.prepare_hint(PICTURE))  # type: ignore[operator, union-attr]
    assert all(torch.equal(ours.skips[i], theirs.skips[i]) for i in range(6))
    assert torch.equal(cast("Tensor", ours.middle), theirs.middle)


def test_a_strength_of_each_residual_goes_from_the_first_block_to_the_middle():
    with torch.inference_mode():
        plain = cast("UNetResiduals", guide_of(tiny.CONTROLNET)(*UNET_CALL))
        weighed = cast("UNetResiduals", guide_of(tiny.CONTROLNET, strength=lambda n, of: n / (of - 1))(*UNET_CALL))
    assert (weighed.skips[0] == 0).all()
    assert torch.equal(weighed.skips[3], plain.skips[3] * (3 / 6))
    assert torch.equal(cast("Tensor", weighed.middle), cast("Tensor", plain.middle))


def test_an_inpainting_checkpoints_extra_channels_are_not_shown_to_a_controlnet():
    x, *rest = UNET_CALL
    with torch.inference_mode():
        plain = cast("UNetResiduals", guide_of(tiny.CONTROLNET)(x, *rest))
        wide = cast("UNetResiduals", guide_of(tiny.CONTROLNET)(torch.cat([x, x, x[:, :1]], dim=1), *rest))
    assert torch.equal(plain.skips[5], wide.skips[5])


def test_a_union_network_is_told_what_the_hint_shows():
    with torch.inference_mode():
        lines = cast("UNetResiduals", guide_of(tiny.UNION, shows="lines")(*UNET_CALL))
        depth = cast("UNetResiduals", guide_of(tiny.UNION, shows="depth")(*UNET_CALL))
    assert not torch.equal(lines.skips[2], depth.skips[2])
    with pytest.raises(BadRequest, match=r"does not know a hint of tile\."):
        guide_of(tiny.UNION, shows="tile")
    with pytest.raises(BadRequest, match=r"(?s)is not told what its hint shows.*pose, depth, soft edges, lines"):
        guide_of(tiny.UNION)
    assert guide_of(replace(tiny.UNION, tasks=8), shows="repaint")


def test_minus_one_is_for_plain_controlnets_alone():
    holed = torch.where(torch.arange(64) < 20, -1.0, PICTURE)
    for config, least in ((tiny.CONTROLNET, -1.0), (tiny.UNION, 0.0), (tiny.T2I_XL, 0.0)):
        hint = HintPicture(holed, "lines")
        guide = guiding(control_of(config), builders.tiny_unet(), hint)
        assert guide._hint.min() == least


def test_an_adapter_runs_once_a_job(monkeypatch):
    guide = guide_of(tiny.T2I_XL)
    calls = []
    guide._network.register_forward_hook(lambda *_: calls.append(1))
    with torch.inference_mode():
        first = cast("UNetResiduals", guide(*UNET_CALL))
        assert guide(*UNET_CALL) is first
    assert len(calls) == 1
    assert sorted(first.inputs) == [2, 3, 5]
    assert first.middle is not None


@pytest.mark.parametrize("config", [tiny.JOINT, tiny.CHAINED, tiny.PARALLEL], ids=["joint", "8B", "2B"])
def test_an_mmdits_network_reads_a_latent_and_the_pooled_text_it_was_trained_with(config):
    main = builders.tiny_mmdit(builders.TINY_MMDIT)
    x, t, context, pooled = MMDIT_CALL
    with torch.inference_mode():
        ours = guide_of(config, hint_type=1, main=main)(*MMDIT_CALL)
        network = control_of(config).network
        hint = network.prepare_hint(latent_hint(config, PICTURE, squeeze, SD3_LATENT, hint_type=1))  # type: ignore[operator, union-attr]
        if config.blocks == "joint":
            theirs = network(x, t, context, torch.zeros_like(pooled), hint)
        else:
            theirs = network(main, x, t, pooled, hint)
    assert all(torch.equal(a, b) for a, b in zip(cast("list[Tensor]", ours), theirs, strict=True))


def test_a_repainting_network_without_a_mask_is_refused():
    config = replace(tiny.JOINT, hint_channels=17)
    assert guide_of(config, mask=torch.ones(1, 1, 64, 64))
    with pytest.raises(BadRequest, match="repaints under a mask"):
        guide_of(config)


INFO = CheckpointInfo(
    path=Path("tiny.safetensors"), name="tiny", family="sdxl", variant="SDXL base", prediction="eps",
    denoiser=builders.TINY_UNET, vae=builders.TINY_VAE, clip_l=None, clip_g=None, t5=None, latent=SD3_LATENT,
    defaults=SDXL_DEFAULTS, size_multiple=8, precision="fp16", sources={}, tokenizer_clip=None, tokenizer_t5=None,
)  # fmt: skip
SD3_INFO = replace(INFO, name="sd", family="sd3", denoiser=builders.TINY_MMDIT)


def fits(config, info=INFO, family: str = "sdxl") -> None:
    check_fits(control_of(config, family=family).info, info)


@pytest.mark.parametrize("config", [tiny.CONTROLNET, tiny.UNION, tiny.T2I_XL])
def test_a_network_of_the_family_fits(config):
    fits(config)
    with pytest.raises(BadRequest, match=r"edges \(ControlNet\) is made for SDXL; sd is of the family SD3.5"):
        fits(config, SD3_INFO)


def test_other_widths_are_named():
    for config in (tiny.JOINT, tiny.CHAINED, tiny.PARALLEL):
        fits(config, SD3_INFO, "sd3")
        wider = replace(config, mmdit=replace(config.mmdit, hidden=256))
        with pytest.raises(BadRequest, match="width 256, the checkpoint's 128"):
            fits(wider, SD3_INFO, "sd3")
    unet = tiny.CONTROLNET.unet
    with pytest.raises(BadRequest, match="text width 100, the checkpoint's 192"):
        fits(replace(tiny.CONTROLNET, unet=replace(unet, context_dim=100)))
    fits(replace(tiny.CONTROLNET, unet=replace(unet, context_dim=0, depth_in=(0, 0, 0), depth_mid=0)))
    with pytest.raises(BadRequest, match=r"widths \(64, 128, 128\)"):
        fits(replace(tiny.CONTROLNET, unet=replace(unet, model_channels=64)))
    with pytest.raises(BadRequest, match=r"widths \(32, 64, 64\)"):
        fits(replace(tiny.T2I_XL, channels=(32, 64, 64)))
