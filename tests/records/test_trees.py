"""Other programs' trees: A1111's, Forge's and ComfyUI's folders are found, and what cannot be read is a sentence."""

from __future__ import annotations

import pytest

from backend.records.catalog import Catalog
from backend.records.model_files import ModelFiles
from backend.records.trees import MAX_YAML, read_tree, read_trees
from tests.formats.files import keys, published, write_sparse


def folders(tmp_path, *names):
    for name in names:
        (tmp_path / name).mkdir(parents=True)
    return tmp_path


def found(tree, top):
    return sorted((place.folder, place.top.relative_to(top).as_posix()) for place in tree.places)


def test_a_tree_of_a1111_or_forge_is_read_from_its_root_or_its_models_folder(tmp_path):
    forge = folders(
        tmp_path / "forge", "models/Stable-diffusion", "models/Lora", "models/VAE", "models/ControlNet",
        "models/ESRGAN", "models/RealESRGAN", "models/text_encoder", "models/karlo", "embeddings",
    )  # fmt: skip
    expected = [
        ("checkpoints", "models/Stable-diffusion"),
        ("controlnet", "models/ControlNet"),
        ("embeddings", "embeddings"),
        ("loras", "models/Lora"),
        ("text_encoders", "models/text_encoder"),
        ("upscalers", "models/ESRGAN"),
        ("upscalers", "models/RealESRGAN"),
        ("vae", "models/VAE"),
    ]
    for path in (forge, forge / "models"):
        tree = read_tree(path)
        assert found(tree, forge) == expected
        assert {place.root for place in tree.places} == {"forge"}
        assert not tree.troubles


def test_a_comfyui_folder_is_read_with_its_extra_paths(tmp_path):
    comfy = folders(tmp_path / "ComfyUI", "models/checkpoints", "models/unet", "models/clip", "models/upscale_models")
    other = folders(tmp_path / "big", "sd", "l1", "l2")
    (comfy / "extra_model_paths.yaml").write_text(
        f"a111:\n    base_path: {other}\n    checkpoints: sd\n    loras: |\n         l1\n         l2\n"
        "    gligen: nowhere\n    is_default: true\n"
    )
    tree = read_tree(comfy)
    assert found(tree, tmp_path) == [
        ("checkpoints", "ComfyUI/models/checkpoints"),
        ("checkpoints", "ComfyUI/models/unet"),
        ("checkpoints", "big/sd"),
        ("loras", "big/l1"),
        ("loras", "big/l2"),
        ("text_encoders", "ComfyUI/models/clip"),
        ("upscalers", "ComfyUI/models/upscale_models"),
    ]
    assert not tree.troubles
    assert found(read_tree(comfy / "extra_model_paths.yaml"), other) == [
        ("checkpoints", "sd"), ("loras", "l1"), ("loras", "l2")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\nb: [c", "no valid YAML at line 2"),
        ("\tx: 1", "no valid YAML at line 1"),
        ("!!python/object/apply:os.system ['true']", "no valid YAML"),
        ("", "names no folders"),
        ("- a\n- b", "names no folders"),
        ("a: 7", "section 'a'"),
        ("a:\n  base_path: [x]", "base_path is no text"),
        ("a:\n  checkpoints: gone", "is no folder"),
        ("a:\n  checkpoints: {x: y}", "checkpoints is no path"),
        ("a:\n  chekpoints: .", "not known and not used: chekpoints"),
        ("{" * 2000, "no valid YAML"),
        ("x" * (MAX_YAML + 1), "more than"),
        ("a: \udcff", "no valid YAML"),
    ],
)
def test_what_cannot_be_read_is_a_sentence(tmp_path, text, words):
    file = tmp_path / "extra_model_paths.yaml"
    file.write_bytes(text.encode(errors="surrogateescape"))
    tree = read_tree(file)
    (sentence,) = tree.troubles
    assert words in sentence
    assert "extra_model_paths.yaml" in sentence
    assert str(tmp_path) not in sentence
    assert len(sentence) < 300


def test_a_place_that_is_none_is_a_sentence(tmp_path):
    assert "no such folder" in read_tree(tmp_path / "gone").troubles[0]
    assert "none of the folders" in read_tree(tmp_path).troubles[0]
    assert "cannot be read" in read_tree(tmp_path / "gone.yaml").troubles[0]


def test_two_trees_of_one_name_are_told_apart(tmp_path):
    trees = [folders(tmp_path / side / "webui", "models/Lora") for side in ("a", "b")]
    assert [place.root for place in read_trees(trees).places] == ["webui", "webui 2"]


def test_names_stay_unique_and_ours_come_first(tmp_path):
    ours, theirs = tmp_path / "models", tmp_path / "forge" / "models"
    paths = [ours / "checkpoints/m.safetensors", ours / "checkpoints/m.sft"]
    paths += [theirs / "Stable-diffusion/m.safetensors", theirs / "Stable-diffusion/only.safetensors"]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_sparse(path, published("sdxl_base"))
    catalog = Catalog(ModelFiles(ours, models_from=[tmp_path / "forge"]))
    assert {entry.name: entry.root for entry in catalog.files.models()} == {
        "m": "", "m (sft)": "", "m (forge)": "forge", "only": "forge"
    }  # fmt: skip
    assert catalog.checkpoint("m").path == ours / "checkpoints/m.safetensors"
    assert catalog.checkpoint("m (forge)").path == theirs / "Stable-diffusion/m.safetensors"
    assert catalog.checkpoint("m.sft").path == ours / "checkpoints/m.sft"
    assert catalog.checkpoint("only").path.parent == theirs / "Stable-diffusion"


def test_a_tree_that_is_our_own_folder_is_listed_once(tmp_path):
    path = tmp_path / "models/checkpoints/m.safetensors"
    path.parent.mkdir(parents=True)
    write_sparse(path, published("sdxl_base"))
    assert [e.name for e in ModelFiles(tmp_path / "models", models_from=[tmp_path, tmp_path]).models()] == ["m"]


def test_what_others_keep_beside_controlnets_counts_to_its_own_folder(tmp_path):
    """An IP-Adapter and its encoder in Forge's ControlNet folder; in our own one they are told where they belong."""
    adapter = keys("image_proj.proj.weight", "ip_adapter.1.to_k_ip.weight", shape=(640, 2048))
    encoder = keys("vision_model.embeddings.patch_embedding.weight")
    theirs, ours = tmp_path / "forge/models/ControlNet", tmp_path / "models"
    for path, tensors in (
        (theirs / "ip-xl.safetensors", adapter), (theirs / "vit-h.safetensors", encoder),
        (ours / "ip_adapter/ip-xl.safetensors", adapter), (ours / "controlnet/lost.safetensors", adapter),
        (theirs / "depth.safetensors", published("sd35_large_controlnet_canny")),
    ):  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        write_sparse(path, tensors)
    files = ModelFiles(ours, models_from=[tmp_path / "forge"])
    usable = {(e.folder, e.name) for e in files.models() if e.usable}
    assert usable == {("ip_adapter", "ip-xl"), ("ip_adapter", "ip-xl (forge)"), ("clip_vision", "vit-h"),
                      ("controlnet", "depth")}  # fmt: skip
    assert files.find("ip-xl (forge)", "ip_adapter").path == theirs / "ip-xl.safetensors"
    assert [entry.name for entry in files.folder("clip_vision")] == ["vit-h"]
    assert "belongs in models/ip_adapter" in files.find("lost", "controlnet").sentence
    assert {entry.name for entry in files.folder("controlnet")} == {"depth", "lost"}


def test_an_adapter_beside_controlnets_is_found_by_name_before_anything_was_read(tmp_path):
    path = tmp_path / "forge/models/ControlNet/ip-xl.safetensors"
    path.parent.mkdir(parents=True)
    write_sparse(path, keys("image_proj.latents", "ip_adapter.1.to_k_ip.weight", shape=(640, 2048)))
    assert ModelFiles(tmp_path / "models", models_from=[tmp_path / "forge"]).find("ip-xl", "ip_adapter").path == path
