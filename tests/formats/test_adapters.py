"""What the header of an adapter tells without a tensor being read: kinds, rank, words, and whom it may fit."""

from __future__ import annotations

import json

import pytest

from backend.formats.adapters import AdapterInfo
from backend.formats.detect import detect
from backend.formats.header import Header, TensorInfo

K = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k"


def told(tmp_path, tensors: dict[str, tuple[int, ...]], **metadata: str) -> AdapterInfo:
    infos = {key: TensorInfo("F16", shape) for key, shape in tensors.items()}
    info = detect(Header(tmp_path / "fox.safetensors", infos, metadata, 0))
    assert isinstance(info, AdapterInfo)
    return info


@pytest.mark.parametrize(("endings", "kinds", "rank"), [
    ({"lora_down.weight": (16, 2048), "lora_up.weight": (640, 16), "alpha": ()}, ("LoRA",), 16),
    ({"lora_down.weight": (8, 2048), "lora_up.weight": (640, 8), "dora_scale": (640, 1)}, ("DoRA", "LoRA"), 8),
    ({"hada_w1_a": (640, 4), "hada_w1_b": (4, 2048), "hada_w2_a": (640, 4), "hada_w2_b": (4, 2048)}, ("LoHa",), 4),
    ({"lokr_w1": (8, 8), "lokr_w2": (80, 256)}, ("LoKr",), None),
    ({"diff": (640, 2048)}, ("full",), None),
])  # fmt: skip
def test_kinds_and_rank_are_told(tmp_path, endings, kinds, rank):
    info = told(tmp_path, {f"{K}.{ending}": shape for ending, shape in endings.items()})
    assert (info.kinds, info.rank) == (kinds, rank)


def test_words_are_the_tags_that_most_pictures_had(tmp_path):
    tags = {"10_fox": {"fox": 40, "zzfox": 45, "snow": 3}, "1_more": {"fox": 5, "odd": "x", " ": 99}}
    info = told(
        tmp_path, {f"{K}.lora_down.weight": (4, 2048)}, ss_tag_frequency=json.dumps(tags), ss_output_name="Fox2"
    )
    assert info.words == ("fox", "zzfox")
    assert info.alias == "Fox2"
    phrase = {"modelspec.trigger_phrase": "zz fox, in oil"}
    assert told(tmp_path, {f"{K}.lora_down.weight": (4, 2048)}, **phrase).words == ("zz fox", "in oil")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"a": 1}', '{"a": {"b": true}}', "[" * 100_000, "null"])
def test_tag_counts_of_any_form_are_harmless(tmp_path, text):
    assert told(tmp_path, {f"{K}.lora_down.weight": (4, 2048)}, ss_tag_frequency=text).words == ()


def test_only_what_the_header_says_speaks_against_a_family(tmp_path):
    xl = told(tmp_path, {f"{K}.lora_down.weight": (4, 2048)})
    assert (xl.may_fit("sdxl"), xl.may_fit("sd3"), xl.may_fit("sd1")) == (True, False, False)
    both = told(tmp_path, {"lora_te2_text_model_encoder_layers_0_self_attn_q_proj.lora_down.weight": (4, 1280)})
    assert (both.may_fit("sdxl"), both.may_fit("sd3"), both.may_fit("sd2")) == (True, True, False)
    silent = told(tmp_path, {"lora_unet_x.lora_down.weight": (4, 64)})
    assert all(silent.may_fit(family) for family in ("sdxl", "sd3", "sd2", "sd1", "sdxl_refiner"))


@pytest.mark.parametrize(("metadata", "family"), [
    ({"modelspec.architecture": "stable-diffusion-xl-v1-base/lora"}, "sdxl"),
    ({"ss_base_model_version": "sdxl_base_v1-0"}, "sdxl"),
    ({"ss_base_model_version": "sd3.5-medium"}, "sd3"),
    ({"modelspec.architecture": "stable-diffusion-v1/lora"}, "sd1"),
])  # fmt: skip
def test_the_metadata_speaks_where_the_shapes_are_silent(tmp_path, metadata, family):
    silent = told(tmp_path, {"lora_unet_x.lora_down.weight": (4, 64)}, **metadata)
    assert [f for f in ("sdxl", "sd3", "sd1") if silent.may_fit(f)] == [family]
    by_shape = told(tmp_path, {f"{K}.lora_down.weight": (4, 2048)}, **metadata)
    assert by_shape.made_for == "SDXL"
