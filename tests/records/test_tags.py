"""Tags in prompts are checked against the files that are there before a job is accepted; nothing of torch is needed."""

from __future__ import annotations

import pytest

from backend.errors import ModelUnsupported, NotFound
from backend.records.catalog import Catalog
from backend.records.model_files import ModelFiles
from backend.records.tags import check_tags
from backend.request import GenerationRequest
from tests.formats.files import keys, published, write_sparse

REGISTRY = {"prompt_tags": [{"name": "lora", "label": "LoRA", "folder": "loras", "owner": "lora"}]}
LAYER = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k.lora_down.weight"


@pytest.fixture
def catalog(tmp_path):
    for name in ("checkpoints", "loras"):
        (tmp_path / name).mkdir()
    write_sparse(tmp_path / "checkpoints" / "xl.safetensors", published("sdxl_base"))
    write_sparse(tmp_path / "checkpoints" / "one.safetensors", published("sd15"))
    write_sparse(tmp_path / "loras" / "fox.safetensors", keys(LAYER, shape=(4, 2048)))
    write_sparse(tmp_path / "checkpoints" / "lost.safetensors", keys(LAYER, shape=(4, 2048)))
    return Catalog(ModelFiles(tmp_path))


def check(catalog: Catalog, prompt: str, checkpoint: str = "xl", registry: dict | None = None, **fields: str) -> None:
    request = GenerationRequest(prompt=prompt, **fields)  # type: ignore[arg-type]
    check_tags(request, catalog.checkpoint(checkpoint), REGISTRY if registry is None else registry, catalog.adapter)


def test_names_that_are_here_pass_whatever_their_case(catalog):
    for prompt in ("a <lora:fox:0.8>", "a <LORA:Fox>", "<lora:fox.safetensors:1>", r"\<lora:nobody>", "<lora:{a|b}:1>"):
        check(catalog, prompt)
    check(catalog, "<lora:nobody>", registry={})  # without the extension the tag means nothing


def test_names_that_are_not_here_are_refused_with_near_ones(catalog):
    with pytest.raises(NotFound, match="fox") as caught:
        check(catalog, "a <lora:foxx:0.8>")
    assert caught.value.field == "prompt"
    with pytest.raises(NotFound) as caught:
        check(catalog, "a", negative_prompt="<lora:nobody>")
    assert caught.value.field == "negative_prompt"


def test_a_file_for_another_family_is_refused_by_name(catalog):
    with pytest.raises(ModelUnsupported, match=r"fox was made for SDXL; one is SD1\.5"):
        check(catalog, "a <lora:fox>", "one")


def test_a_lora_among_checkpoints_is_sent_to_its_folder(catalog):
    entry = catalog.files.find("lost")
    assert not entry.usable
    assert "belongs in models/loras" in entry.sentence
    assert catalog.files.find("fox", "loras").usable
