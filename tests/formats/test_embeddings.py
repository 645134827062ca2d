"""Textual inversions by their headers: which words for which encoders, whatever trainer wrote them."""

from __future__ import annotations

import pytest

from backend.errors import ModelCorrupt
from backend.formats.embeddings import EmbeddingInfo

FILES = {
    "SD1": ({"emb_params": ("F32", [8, 768])}, [(None, 8, 768)]),
    "SD2": ({"emb_params": ("F16", [2, 1024])}, [(None, 2, 1024)]),
    "SDXL": ({"clip_l": ("BF16", [4, 768]), "clip_g": ("BF16", [4, 1280])}, [("clip_g", 4, 1280), ("clip_l", 4, 768)]),
    "SD3": (
        {"clip_l": ("F32", [2, 768]), "clip_g": ("F32", [2, 1280]), "t5xxl": ("F32", [2, 4096])},
        [("clip_g", 2, 1280), ("clip_l", 2, 768), ("t5", 2, 4096)],
    ),
    "diffusers": ({"<cat-toy>": ("F32", [768])}, [(None, 1, 768)]),
    "diffusers, many rows": ({"<style>": ("F16", [5, 768])}, [(None, 5, 768)]),
    "converted from a pickle": ({"string_to_param.*": ("F32", [3, 768])}, [(None, 3, 768)]),
    "beside other tensors": ({"emb_params": ("F32", [1, 768]), "step": ("I64", [1])}, [(None, 1, 768)]),
}


@pytest.mark.parametrize(("tensors", "expected"), FILES.values(), ids=FILES)
def test_each_trainer_s_file_tells_its_vectors(detected, tensors, expected):
    info = detected(tensors)
    assert isinstance(info, EmbeddingInfo)
    assert [(row.part, row.count, row.width) for row in info.vectors] == expected


def test_the_models_that_it_was_made_for_show_in_the_widths(detected):
    made_for = {name: detected(tensors).made_for for name, (tensors, _) in FILES.items()}
    assert [made_for[name] for name in ("SD1", "SD2", "SDXL", "SD3")] == ["SD1.5", "SD2", "SDXL", "SD3"]
    assert detected({"emb_params": ("F32", [2, 64])}).made_for == ""


def test_an_encoder_gets_the_rows_made_for_it_or_of_its_width(detected):
    both = detected(FILES["SDXL"][0])
    assert both.for_encoder("clip_g", 1280).key == "clip_g"
    assert both.for_encoder("clip_l", 768).key == "clip_l"
    assert both.for_encoder("t5", 4096) is None
    assert both.for_encoder("clip_l", 1280) is None  # the right name, another width
    lone = detected(FILES["SD1"][0])
    assert lone.for_encoder("clip_l", 768).count == 8
    assert lone.for_encoder("clip_g", 1280) is None


@pytest.mark.parametrize(
    "tensors",
    [{"emb_params": ("F32", [2, 3, 768])}, {"clip_l": ("I64", [4, 768])}, {"clip_g": ("F32", [])},
     {"emb_params": ("F32", [1, 768]), "clip_l": ("U8", [768])}],
)  # fmt: skip
def test_a_named_tensor_that_is_no_list_of_vectors_is_corrupt(detected, tensors):
    with pytest.raises(ModelCorrupt, match="no list of vectors"):
        detected(tensors)


@pytest.mark.parametrize(
    "tensors",
    [{"proj.weight": ("F32", [4, 768])}, {"x": ("F32", [5000, 768])}, {"x": ("I64", [4, 768])},
     {"a": ("F32", [768]), "b": ("F32", [768])}, {"bundle_emb.x.clip_l": ("F32", [4, 8]), "alpha": ("F32", [])}],
)  # fmt: skip
def test_other_small_files_are_not_taken_for_embeddings(detected, tensors):
    assert not isinstance(detected(tensors), EmbeddingInfo)
