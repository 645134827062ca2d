"""A diffusers folder is one model: detected by its shapes, mapped from where its parts lie, and loaded the same."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from backend.checkpoints.load import load_part
from backend.engine.engine import Engine
from backend.errors import ModelCorrupt, ModelUnsafe, ModelUnsupported
from backend.formats.configs import CheckpointInfo, OtherFile
from backend.formats.folders import MAX_JSON, detect_folder
from backend.formats.parts import clip_config
from backend.formats.reader import TensorInfo
from backend.records.catalog import Catalog
from backend.records.model_files import ModelFiles
from backend.settings import load_settings
from backend.text.encode import encode_clip
from backend.text.encoders import build_clip
from backend.text.prompt import ParsedPrompt, Piece
from backend.text.tokenize import ClipTokenizer
from tests import builders
from tests.checkpoints import tiny
from tests.checkpoints.diffusers_folder import put, write_folder
from tests.engine.conftest import ask
from tests.formats.files import published


@pytest.mark.parametrize(("variant", "shards"), [("", 1), (".fp16", 1), ("", 3), (".fp16", 2)])
@pytest.mark.parametrize("family", ["sdxl", "sd3"])
def test_every_part_is_the_network_that_was_written(tmp_path, family, variant, shards):
    info = detect_folder(write_folder(tmp_path / "my.model", family, variant=variant, shards=shards))
    assert isinstance(info, CheckpointInfo)
    assert (info.name, info.path, info.family) == ("my.model", tmp_path / "my.model", family)
    assert info.denoiser == (builders.TINY_UNET if family == "sdxl" else builders.TINY_MMDIT_X)
    assert info.vae == (builders.TINY_VAE if family == "sdxl" else builders.TINY_VAE_16)
    assert (info.clip_l.width, info.clip_g) == (64, tiny.CLIP_G)
    assert (info.latent.scale, info.latent.shift) == ((0.5, 0.0) if family == "sdxl" else (0.25, 0.0609))
    assert not any(note.startswith("It has no") for note in info.notes)
    assert len(info.sources["denoiser"].paths) == shards
    for part, module in tiny.tiny_modules(family).items():
        loaded = load_part(info, part).state_dict()
        expected = {key: t.half() for key, t in module.state_dict().items() if "position_ids" not in key}
        assert set(loaded) == set(expected)
        assert all(torch.equal(loaded[key], tensor) for key, tensor in expected.items())


def test_the_plain_weights_come_before_the_variant(tmp_path):
    folder = write_folder(tmp_path / "m", "sdxl", variant=".fp16")
    (folder / "vae" / "diffusion_pytorch_model.fp16.safetensors").rename(
        folder / "vae" / "diffusion_pytorch_model.safetensors"
    )
    info = detect_folder(folder)
    assert info.sources["vae"].paths[0].name == "diffusion_pytorch_model.safetensors"
    assert info.sources["denoiser"].paths[0].name == "diffusion_pytorch_model.fp16.safetensors"


@pytest.mark.parametrize(
    ("scheduler", "prediction", "zero_snr"),
    [
        ({"prediction_type": "epsilon"}, "eps", False),
        ({"prediction_type": "v_prediction"}, "v", False),
        ({"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}, "v", True),
    ],
)
def test_what_no_shape_says_is_taken_from_the_scheduler(tmp_path, scheduler, prediction, zero_snr):
    info = detect_folder(write_folder(tmp_path / "m", "sdxl", scheduler=scheduler))
    assert (info.prediction, info.zero_terminal_snr) == (prediction, zero_snr)
    assert info.prediction_source == "scheduler_config.json"
    assert ("v-prediction: scheduler_config.json says so." in info.notes) == (prediction == "v")


@pytest.mark.parametrize(
    ("file", "value", "error"),
    [
        ("scheduler/scheduler_config.json", {"prediction_type": "sample"}, ModelUnsupported),
        ("scheduler/scheduler_config.json", {"prediction_type": 3}, ModelUnsupported),
        ("scheduler/scheduler_config.json", {"sigma_data": 0.5}, ModelUnsupported),
        ("scheduler/scheduler_config.json", [1], ModelCorrupt),
        ("vae/config.json", {"scaling_factor": 0}, ModelCorrupt),
        ("vae/config.json", {"scaling_factor": "1"}, ModelCorrupt),
        ("vae/config.json", {"scaling_factor": 1e99}, ModelCorrupt),
        ("vae/config.json", {"norm_num_groups": 7}, ModelCorrupt),
        ("vae/config.json", {"latents_mean": [0, 0, 0, 0]}, ModelUnsupported),
        ("unet/config.json", {"norm_num_groups": -1}, ModelCorrupt),
        ("text_encoder/config.json", {"hidden_act": "os.system"}, ModelCorrupt),
        ("text_encoder/config.json", {"num_attention_heads": 3}, ModelCorrupt),
    ],
)
def test_json_values_out_of_bounds_are_refused(tmp_path, file, value, error):
    folder = write_folder(tmp_path / "m", "sdxl")
    if file.startswith("text_encoder"):  # its header says nothing then
        from safetensors.torch import load_file

        from backend.checkpoints.save import write_tensors

        weights = folder / "text_encoder" / "model.safetensors"
        write_tensors(weights, load_file(weights), {})
    put(folder / file, value)
    with pytest.raises(error):
        detect_folder(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"[" * 10**5, b"\xff\xfe", b'{"a": ' + b"9" * 6000 + b"}"])
def test_broken_json_is_a_sentence(tmp_path, content):
    folder = write_folder(tmp_path / "m", "sdxl")
    (folder / "vae" / "config.json").write_bytes(content)
    with pytest.raises(ModelCorrupt, match=r"vae/config\.json"):
        detect_folder(folder)


def test_json_without_end_is_not_read(tmp_path):
    folder = write_folder(tmp_path / "m", "sdxl")
    with (folder / "vae" / "config.json").open("wb") as file:
        file.truncate(MAX_JSON + 1)
    with pytest.raises(ModelUnsafe):
        detect_folder(folder)


@pytest.mark.parametrize(
    "places",
    [None, {}, {"a": 5}, {"a": "../vae/diffusion_pytorch_model.safetensors"}, {"a": "/etc/passwd.safetensors"},
     {"a": "gone.safetensors"}, {f"k{n}": f"{n}.safetensors" for n in range(500)}],
)  # fmt: skip
def test_an_index_that_leads_elsewhere_is_refused(tmp_path, places):
    folder = write_folder(tmp_path / "m", "sdxl", shards=2)
    put(folder / "unet" / "diffusion_pytorch_model.safetensors.index.json", {"weight_map": places})
    with pytest.raises(ModelCorrupt):
        detect_folder(folder)


def test_what_is_missing_or_pickled_or_of_another_kind_is_a_sentence(tmp_path):
    folder = write_folder(tmp_path / "m", "sdxl", shards=2)
    next(folder.glob("unet/*-00002-*.safetensors")).unlink()
    with pytest.raises(ModelCorrupt, match="1 of 2 shards"):
        detect_folder(folder)
    folder = write_folder(tmp_path / "n", "sdxl")
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(ModelUnsafe, match="easel convert"):
        detect_folder(folder)
    (folder / "unet" / "diffusion_pytorch_model.bin").rename(folder / "unet" / "other.txt")
    with pytest.raises(ModelCorrupt, match="no weights"):
        detect_folder(folder)
    (tmp_path / "prior").mkdir()
    with pytest.raises(ModelUnsupported, match="neither unet/ nor transformer/"):
        detect_folder(tmp_path / "prior")
    from backend.checkpoints.save import write_tensors

    write_tensors(weights, {"double_blocks.0.img_attn.qkv.weight": torch.zeros(2, 2)}, {})
    assert isinstance(detect_folder(folder), OtherFile)


def test_sd2_s_encoder_without_its_last_layer_reads_the_same(tmp_path):
    """diffusers stores 23 of CLIP-H's 24 layers and takes the last; SD2 reads the last but one."""
    prefix = "cond_stage_model.model."
    short = {
        key.removeprefix(prefix): TensorInfo(dtype, tuple(shape))
        for key, (dtype, shape) in published("sd21").items()
        if key.startswith(prefix) and ".resblocks.23." not in key
    }
    assert (clip_config("clip_h", short, {}).layers, clip_config("clip_h", short, {}).cut) == (23, 1)
    full = replace(tiny.CLIP_G, layers=4)
    cut = replace(full, layers=3, cut=1)
    long, brief = build_clip(full), build_clip(cut)
    builders.randomise(long)
    brief.load_state_dict({key: tensor for key, tensor in long.state_dict().items() if ".layers.3." not in key})
    tokenizer = ClipTokenizer(full, builders.tiny_clip_tokenizer())
    prompt = ParsedPrompt(((Piece("a fox", 1.0),),))
    for skip in (2, 3):
        ours, theirs = (
            encode_clip(model, tokenizer, config, prompt, clip_skip=skip, final_norm=True).hidden
            for model, config in ((brief, cut), (long, full))
        )
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_the_catalog_lists_a_folder_as_one_entry_and_notices_its_changes(tmp_path):
    folder = write_folder(tmp_path / "checkpoints" / "sub" / "tiny.folder", "sdxl")
    catalog = Catalog(ModelFiles(tmp_path, readings=tmp_path / "readings.sqlite"))
    (entry,) = catalog.files.models()
    assert (entry.name, entry.usable, entry.sentence) == ("sub/tiny.folder", True, "")
    assert entry.file_bytes > sum(file.stat().st_size for file in folder.glob("*/*.safetensors"))
    assert catalog.checkpoint("tiny.folder") == catalog.checkpoint("sub/tiny.folder") == entry.info
    again = ModelFiles(tmp_path, readings=tmp_path / "readings.sqlite")
    again.look()
    assert again.listing()[0].info == entry.info  # remembered, not read
    (folder / "text_encoder_2" / "model.safetensors").unlink()
    assert not catalog.files.find("tiny.folder").usable


def test_the_picture_is_the_one_of_the_single_file(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    for family in ("sdxl", "sd3"):
        builders.tiny_checkpoint(tmp_path / "checkpoints" / f"file-{family}.safetensors", family)
        write_folder(tmp_path / "checkpoints" / f"folder-{family}", family, shards=2)
    engine = Engine(load_settings(data_dir=tmp_path / "data", models_dir=tmp_path, device="cpu", dtype="float32"))
    for family in ("sdxl", "sd3"):
        one, other = (engine.generate(ask(f"{kind}-{family}")).pictures[0] for kind in ("file", "folder"))
        difference = np.abs(np.asarray(one.image).astype(int) - np.asarray(other.image).astype(int))
        assert difference.max() <= 1  # products of another memory layout differ by 1e-7
        assert "Model hash" in other.parameters
