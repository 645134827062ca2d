"""Text encoders in files of their own are told apart by keys and width, in every naming."""

from __future__ import annotations

import json

import pytest

from backend.errors import ModelCorrupt
from backend.formats.configs import CLIPConfig, EncoderInfo, OtherFile
from tests.formats.files import keys, published

CLIP_TOKENS = "text_model.embeddings.token_embedding.weight"


def part_of(name, prefix, put=""):
    return {put + key[len(prefix) :]: row for key, row in published(name).items() if key.startswith(prefix)}


FILES = {
    "clip_l": (published("clip_l"), "clip_l", "canonical"),
    "clip_g": (published("clip_g"), "clip_g", "canonical"),
    "t5xxl": (published("t5xxl"), "t5", "canonical"),
    "clip_l without text_model": (part_of("clip_l", "text_model."), "clip_l", "headless"),
    "CLIP-L of SDXL": (part_of("sdxl_base", "conditioner.embedders.0.transformer."), "clip_l", "canonical"),
    "CLIP-G of SDXL": (part_of("sdxl_base", "conditioner.embedders.1.model."), "clip_g", "open_clip"),
    "CLIP-H of SD2": (part_of("sd21", "cond_stage_model.model."), "clip_h", "open_clip"),
}


@pytest.mark.parametrize("prefix", ["", "text_encoders.clip_g.transformer.", "transformer."])
@pytest.mark.parametrize(("tensors", "part", "layout"), FILES.values(), ids=FILES)
def test_each_encoder_is_known_under_any_prefix(detected, tensors, part, layout, prefix):
    info = detected({prefix + key: row for key, row in tensors.items()})
    assert isinstance(info, EncoderInfo)
    assert (info.part, info.source.layout, info.source.prefix) == (part, layout, prefix)


def test_fact_5_the_projection_is_read_from_either_axis(detected):
    """A bare matrix ``x @ P`` (W, P) in open_clip naming, a Linear weight (P, W) in Hugging Face naming."""
    for tensors, key in ((FILES["CLIP-G of SDXL"][0], "text_projection"),
                         (FILES["clip_g"][0], "text_projection.weight")):  # fmt: skip
        width, inner = 1280, 640
        shape = [width, inner] if key == "text_projection" else [inner, width]
        info = detected({**tensors, key: ("F16", shape)})
        assert isinstance(info.config, CLIPConfig)
        assert (info.config.width, info.config.projection_dim) == (width, inner)


def test_clip_l_may_lack_its_projection(detected):
    tensors = {key: row for key, row in published("clip_l").items() if "projection" not in key}
    assert detected(tensors).config.projection_dim is None
    assert detected(published("clip_l") | keys("logit_scale", shape=())).part == "clip_l"


def test_an_incomplete_encoder_is_refused_by_its_header(detected):
    tensors = published("clip_l")
    del tensors["text_model.encoder.layers.3.mlp.fc2.bias"]
    with pytest.raises(ModelCorrupt, match="1 missing"):
        detected(tensors)


def test_fp8_is_told(detected):
    tensors = {key: ("F8_E4M3", shape) for key, (_, shape) in published("t5xxl").items()}
    assert detected(tensors).precision == "fp8"


def test_a_narrow_encoder_says_which_it_is(detected):
    narrow = {768: 64, 3072: 256}
    tensors = {key: (dtype, [narrow.get(n, n) for n in shape]) for key, (dtype, shape) in published("clip_l").items()}
    assert isinstance(detected(tensors), OtherFile)
    for part in ("clip_l", "clip_g"):
        assert detected(tensors, {f"easel.{part}": json.dumps({"heads": 1})}).part == part


def test_what_holds_more_than_a_text_encoder_is_none(detected):
    for stray in ("vision_model.embeddings.patch_embedding.weight", "visual.proj"):
        assert detected(published("clip_l") | keys(stray)).kind == "CLIP vision encoder"
    assert isinstance(detected(published("t5xxl") | keys("decoder.block.0.layer.0.SelfAttention.q.weight")), OtherFile)
    other = {CLIP_TOKENS: ("F16", [49408, 512]), **keys("text_model.encoder.layers.0.mlp.fc1.weight")}
    assert isinstance(detected(other), OtherFile)
