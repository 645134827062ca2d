"""Full-size files: the published names, shapes and formats, and never a full disk. The tests write small ones only."""

from __future__ import annotations

import shutil
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from backend.checkpoints.full_size import write_full_size
from backend.checkpoints.load import Arithmetic, load_part
from backend.errors import DiskFull
from backend.formats.configs import CheckpointInfo
from backend.formats.detect import detect
from backend.formats.full_size import FULL_SIZES, FullSize
from backend.formats.layout import is_nuisance
from backend.formats.reader import read_header
from tests import builders
from tests.checkpoints import tiny
from tests.formats.files import published

SMALL_VAE = replace(builders.TINY_VAE_16, channels=32, norm_groups=32)  # the groups of published files
SMALL = FullSize(
    "sd3",
    {"denoiser": builders.TINY_MMDIT_X, "vae": SMALL_VAE, "clip_l": tiny.CLIP_L, "t5": tiny.T5},
    scaled=frozenset({"denoiser", "t5"}),
)


def published_shapes(name: str, prefix: str = "") -> dict[str, tuple[int, ...]]:
    return {prefix + key: tuple(shape) for key, (_, shape) in published(name).items() if not is_nuisance(prefix + key)}


@pytest.mark.parametrize(
    ("name", "lists"),
    [
        ("sdxl", {"sdxl_base": ""}),
        (
            "sd35-medium",
            {
                "sd35_medium": "", "clip_l": "text_encoders.clip_l.transformer.",
                "clip_g": "text_encoders.clip_g.transformer.", "t5xxl": "text_encoders.t5xxl.transformer.",
            },
        ),
        (
            "sd35-large-fp8",
            {
                "sd35_large": "", "clip_l": "text_encoders.clip_l.transformer.",
                "clip_g": "text_encoders.clip_g.transformer.", "t5xxl": "text_encoders.t5xxl.transformer.",
            },
        ),
    ],
)  # fmt: skip
def test_names_and_shapes_are_those_of_the_published_files(name: str, lists: dict[str, str]) -> None:
    tensors = FULL_SIZES[name].tensors()
    found = {key: shape for key, (_, shape) in tensors.items() if not key.endswith(("scale_weight", "scaled_fp8"))}
    expected: dict[str, tuple[int, ...]] = {}
    for listed, prefix in lists.items():
        expected |= published_shapes(listed, prefix)
    assert found == expected


def test_sizes_are_what_the_published_files_take() -> None:
    sizes = {name: total(model) / 2**30 for name, model in FULL_SIZES.items()}
    assert sizes == pytest.approx({"sdxl": 6.46, "sd35-medium": 15.15, "sd35-large-fp8": 13.7}, rel=0.02)


def total(model: FullSize) -> int:
    width = {"F16": 2, "F32": 4, "F8_E4M3": 1}
    return sum(width[dtype] * torch.Size(shape).numel() for dtype, shape in model.tensors().values())


@pytest.mark.parametrize("part", ["denoiser", "t5", "clip_l"])
def test_what_is_written_is_detected_and_its_weights_keep_the_size_of_what_passes(tmp_path: Path, part: str) -> None:
    path = tmp_path / "small.safetensors"
    assert write_full_size(path, SMALL) == path.stat().st_size
    info = detect(read_header(path))
    assert isinstance(info, CheckpointInfo)
    assert (info.precision, info.denoiser, info.refusal) == ("fp8 scaled", builders.TINY_MMDIT_X, "")
    state = load_part(info, part, Arithmetic(torch.float32, keep_quantised=False)).state_dict()  # type: ignore[arg-type]
    for key, tensor in state.items():
        if tensor.ndim == 2 and tensor.numel() > 10_000:
            assert tensor.std() * tensor.shape[1] ** 0.5 == pytest.approx(1, rel=0.05), key
        elif key.endswith("norm1.weight"):
            assert tensor.mean() == pytest.approx(1, rel=0.05)


def test_a_disk_with_too_little_room_is_told_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage(10**12, 10**12, 2**31))
    with pytest.raises(DiskFull, match=r"GiB are free"):
        write_full_size(tmp_path / "a.safetensors", SMALL)
    assert not list(tmp_path.iterdir())
