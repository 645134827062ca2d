"""The shipped LoRAs and ControlNets: small enough, for the right family, listed, and complete for their checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.adapters.formats import read_adapter
from backend.adapters.places import Places
from backend.checkpoints.load import empty_part
from backend.control.load import load_control
from backend.formats.configs import CheckpointInfo
from backend.formats.detect import detect
from backend.formats.reader import read_header
from backend.records.catalog import Catalog
from backend.records.model_files import ModelFiles

MODELS = Path(__file__).parents[2] / "models"
FAMILIES = {"xl": "sdxl", "sd3": "sd3"}


def checkpoint(name: str) -> CheckpointInfo:
    info = detect(read_header(MODELS / "checkpoints" / f"demo-{name}.safetensors"))
    assert isinstance(info, CheckpointInfo)
    return info


@pytest.mark.parametrize("name", FAMILIES)
def test_the_lora_is_small_listed_and_matches_its_checkpoint_whole(name):
    found = Catalog(ModelFiles(MODELS)).adapter(f"demo-sketch-{name}")
    assert found.path.stat().st_size <= 2_000_000
    others = {family for family in FAMILIES.values() if found.may_fit(family)}
    assert others == {FAMILIES[name]}
    adapter = read_adapter(found.path, Places({"denoiser": empty_part(checkpoint(name), "denoiser")}))
    assert adapter.match.matched == adapter.match.total


@pytest.mark.parametrize("name", FAMILIES)
def test_the_controlnet_is_small_listed_and_loads_complete(name):
    info = Catalog(ModelFiles(MODELS)).control(f"demo-edges-{name}")
    assert info.path.stat().st_size <= 12_000_000
    assert info.family == FAMILIES[name]
    network = load_control(info).network
    denoiser = checkpoint(name).denoiser
    of = network.control.unet if name == "xl" else network.control.mmdit
    shared = ("in_channels", "model_channels", "channel_mult", "norm_groups") if name == "xl" else ("hidden", "heads")
    assert all(getattr(of, field) == getattr(denoiser, field) for field in shared)
