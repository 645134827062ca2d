"""The table of ``easel models`` says what each file is, what is wrong with it, and what only a person knows."""

from __future__ import annotations

from backend.records.model_files import ModelFiles
from tests.formats.files import keys, published, write_sparse
from webui.model_facts import model_json
from webui.model_table import model_lines

LAYER = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k"


def test_every_kind_of_file_is_told_in_a_row_and_its_remarks(tmp_path):
    files = {
        "checkpoints/xl": published("sdxl_base"),
        "checkpoints/marked": published("sdxl_base") | {"v_pred": ("F32", [0])},
        "checkpoints/large": published("sd35_large"),
        "vae/sd3": published("sd3_vae"),
        "loras/fox": keys(
            "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k.lora_down.weight", shape=(4, 2048)
        ),
    }
    for name, tensors in files.items():
        path = tmp_path / f"{name}.safetensors"
        path.parent.mkdir(exist_ok=True)
        write_sparse(path, tensors)
    (tmp_path / "checkpoints" / "page.safetensors").write_text("<html>")
    files = ModelFiles(tmp_path)
    lines = model_lines([model_json(entry) for entry in files.models()])
    text = "\n".join(lines)
    cells = {line.split()[0]: line.split()[1:] for line in lines if line.startswith("  ") and line[2] != " "}
    assert cells["xl"] == ["SDXL", "base", "SDXL", "fp16", "6.5", "GiB"]
    assert cells["large"][:3] == ["SD3.5", "Large", "SD3"]
    assert cells["sd3"] == ["VAE", "-", "fp16", "159.9", "MiB"]
    assert cells["fox"][:2] == ["LoRA", "SDXL"]
    assert cells["page"] == ["-", "-", "-", "6", "bytes"]
    assert [line for line in lines if line.endswith("/")] == ["checkpoints/", "vae/", "loras/"]
    assert "page.safetensors is a web page" in text
    assert "v-prediction: key v_pred says so." in text
    assert "? SD3.5 Large / SD3.5 Large Turbo: taken for SD3.5 Large until you" in text
    assert "? eps" not in text  # nobody needs to be asked
    assert max(map(len, lines)) <= 120
