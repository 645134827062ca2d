"""The VAE never makes a black picture: it is not run in float16, and what overflows all the same is done again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from backend.checkpoints.save import write_tensors
from backend.engine.device import DevicePolicy, choose_device
from backend.engine.engine import Engine
from backend.errors import NanDetected
from backend.formats.reader import read_header
from backend.settings import load_settings
from tests.builders import tiny_checkpoint
from tests.engine.conftest import ask

OVERFLOWING = "first_stage_model.decoder.conv_in.weight"


@pytest.mark.parametrize(
    ("has_bf16", "dtype", "expected"),
    [(True, "auto", (torch.bfloat16, torch.bfloat16)), (False, "auto", (torch.float16, torch.float32)),
     (True, "float16", (torch.float16, torch.float32)), (True, "float32", (torch.float32, torch.float32))],
)  # fmt: skip
def test_no_gpu_runs_the_vae_in_float16(monkeypatch: pytest.MonkeyPatch, has_bf16: bool, dtype: str, expected) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: has_bf16)
    policy = choose_device("cuda", dtype, memory_gb=8)
    assert (policy.dtype, policy.vae_dtype) == expected
    assert policy.dtype_of("vae") is expected[1]


def engine_with(tmp_path: Path, factor: float, vae_dtype: torch.dtype) -> Engine:
    """An engine on a tiny SDXL whose VAE works with numbers ``factor`` times as large as usual."""
    path = tmp_path / "models" / "checkpoints" / "xl.safetensors"
    if not path.exists():
        path.parent.mkdir(parents=True)
        tiny_checkpoint(path, "sdxl", dtype=None)
        tensors, metadata = safetensors.torch.load_file(path), dict(read_header(path).metadata)
        tensors[OVERFLOWING] = tensors[OVERFLOWING] * factor
        write_tensors(path, tensors, metadata)
    engine = Engine(
        load_settings(data_dir=tmp_path / "data", models_dir=tmp_path / "models", device="cpu", dtype="float32")
    )
    policy: DevicePolicy = replace(engine.policy, vae_dtype=vae_dtype)
    engine.policy = engine.manager.policy = policy
    return engine


def test_a_vae_that_overflows_is_run_again_in_float32_with_a_note(tmp_path: Path) -> None:
    small = engine_with(tmp_path, 5e4, torch.float16).generate(ask("xl"))
    whole = engine_with(tmp_path, 5e4, torch.float32).generate(ask("xl"))
    assert any("NaN in float16" in note and "again in float32" in note for note in small.notes)
    assert not any("NaN" in note for note in whole.notes)
    difference = np.abs(
        np.asarray(small.pictures[0].image).astype(int) - np.asarray(whole.pictures[0].image).astype(int)
    )
    assert difference.max() <= 3  # weights that were rounded to float16 once
    assert np.asarray(small.pictures[0].image).std() > 1


def test_one_that_gives_nan_in_float32_too_fails_with_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(NanDetected, match="VAE gave NaN while decoding"):
        engine_with(tmp_path, float("inf"), torch.float32).generate(ask("xl"))
