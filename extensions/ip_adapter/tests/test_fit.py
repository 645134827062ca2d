"""Adapters of the published sizes: their layers' order, and which blocks make style and composition."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from backend.errors import ModelUnsupported
from backend.formats.detect import detect
from backend.formats.reader import read_header
from backend.nn.mmdit import MMDiT
from backend.nn.unet import UNet
from extensions.ip_adapter.adapter import KINDS, AdapterInfo, build_adapter
from extensions.ip_adapter.choosing import vision_of
from extensions.ip_adapter.fit import attentions_of, blocks_of, check_fits
from extensions.ip_adapter.parameters import UnitParameters
from extensions.ip_adapter.tests.networks import adapters, clip
from extensions.ip_adapter.vision import build_vision
from tests.formats.files import published, write_sparse
from tests.oracles.diffusers_networks import diffusers_unet

LAYERS = {"sdxl_base": 70, "sd15": 16}


def view_of(name: str, folder: Any) -> Any:
    """What ``fit`` asks of a model, for a checkpoint of its published size."""
    path = folder / f"{name}.safetensors"
    write_sparse(path, published(name))
    info = cast("Any", detect(read_header(path)))
    with torch.device("meta"):
        network = MMDiT(info.denoiser) if info.family == "sd3" else UNet(info.denoiser)
    return SimpleNamespace(info=info, places=network.places)


@pytest.mark.oracle
@pytest.mark.parametrize("name", LAYERS)
def test_layers_stand_in_the_order_in_which_diffusers_numbers_attentions(name, tmp_path):
    """Every width is where diffusers has it, of 70 and 16; a file in another order would be refused."""
    model = view_of(name, tmp_path)
    with torch.device("meta"):
        unet = diffusers_unet(model.info.denoiser)
    shapes = {key: tuple(tensor.shape) for key, tensor in unet.state_dict().items()}
    theirs = [shapes[key.replace(".processor", ".to_k.weight")] for key in unet.attn_processors if "attn2" in key]
    assert len(theirs) == len(attentions_of(model)) == LAYERS[name]
    check_fits(AdapterInfo(KINDS[-1], 1024, theirs[0][1], tuple(shape[0] for shape in theirs)), model)


def test_instant_styles_blocks_of_sdxl_are_those_of_the_paper(tmp_path):
    """up_blocks.0.attentions.1 and down_blocks.2.attentions.1 in the names of the published checkpoint."""
    model = view_of("sdxl_base", tmp_path)
    assert blocks_of("style only", model) == ("output.1",)
    assert blocks_of("composition only", model) == ("input.8",)
    assert blocks_of("style and composition", model) == ("input.8", "output.1")
    assert blocks_of("ordinary", model) == ()


def test_instantx_adapter_has_the_attentions_of_sd35_large_and_not_of_medium(tmp_path):
    adapter = AdapterInfo(KINDS[0], 1152, 2432, (2432,) * 38)
    check_fits(adapter, view_of("sd35_large", tmp_path))
    with pytest.raises(ModelUnsupported, match=r"is for SD3\.5 Large, .* for 38 attentions.*has 24"):
        check_fits(adapter, view_of("sd35_medium", tmp_path))


def test_without_any_vision_encoder_the_published_one_is_named():
    adapter = AdapterInfo(KINDS[-1], 1280, 2048, (640,))
    unit = UnitParameters(adapter="ip-adapter_sdxl")
    with pytest.raises(ModelUnsupported, match="In models/clip_vision there is none") as raised:
        vision_of(unit, "IP-Adapter", adapter, cast("Any", SimpleNamespace(files=lambda folder: ())))
    assert raised.value.todo == "Put CLIP ViT-bigG/14 (laion2B) into models/clip_vision."


def test_a_file_that_lacks_anything_or_has_it_in_another_rank_is_a_sentence():
    """Every key of two kinds that have between them what others have, and every shape turned into that of a number."""
    files = [(build_adapter, tensors) for name, tensors in adapters().items() if name in ("xl-full", "sd3")]
    files.append((build_vision, dict(clip().state_dict())))
    for build, tensors in files:
        for key in tensors:
            for broken in ({**tensors, key: torch.zeros(1)}, {k: t for k, t in tensors.items() if k != key}):
                with pytest.raises(ModelUnsupported):
                    build(broken)
