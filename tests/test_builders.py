"""The tiny checkpoints that other tests build on are what they claim to be."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
import torch

from backend.checkpoints.load import load_part
from backend.formats.configs import CheckpointInfo, Family
from backend.formats.detect import detect
from backend.formats.reader import read_header
from backend.text.tokenize import clip_tokenizer, t5_tokenizer
from tests import builders


@pytest.mark.parametrize("family", ["sdxl", "sd3"])
def test_tiny_checkpoint_is_found_out_and_loaded(tmp_path: Path, family: Family):
    path = builders.tiny_checkpoint(tmp_path / "tiny.safetensors", family)
    info = detect(read_header(path))
    assert isinstance(info, CheckpointInfo)
    config = builders.TINY_UNET if family == "sdxl" else builders.TINY_MMDIT_X
    differing = [f.name for f in fields(config) if getattr(info.denoiser, f.name) != getattr(config, f.name)]
    assert differing == []
    network = load_part(info, "denoiser").float()
    pooled = config.label_dim if family == "sdxl" else config.pooled_dim  # type: ignore[union-attr]
    x = torch.randn(1, config.in_channels, 8, 8)
    with torch.inference_mode():
        y = network(x, torch.tensor([500.0]), torch.randn(1, 7, config.context_dim), torch.randn(1, pooled or 0))
    assert torch.isfinite(y).all()
    assert y.std() > 0.01


def test_tiny_tokenizers_know_plain_words(tmp_path: Path):
    info = detect(read_header(builders.tiny_checkpoint(tmp_path / "tiny.safetensors", "sd3")))
    assert isinstance(info, CheckpointInfo)
    clip, t5 = clip_tokenizer(info, "clip_l"), t5_tokenizer(info)
    assert len(clip.ids("a fox")) == 4
    assert max(clip.ids("a fox, 2 hats")) < 188
    assert min(t5.ids("a fox")) > 2
