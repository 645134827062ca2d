"""What is written is detected as what it is and read back bit for bit, and reading costs no memory."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch

from backend.checkpoints.load import load_part, load_vae_file
from backend.checkpoints.save import write_checkpoint, write_tensors
from backend.errors import BadRequest, DiskFull, ModelCorrupt, ModelUnsupported, NotFound
from backend.formats.configs import CheckpointInfo, VaeInfo
from backend.formats.detect import detect
from backend.formats.layout import PREFIXES
from backend.formats.reader import read_header
from tests import builders
from tests.checkpoints import tiny

FAMILIES = tuple(PREFIXES)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """One tiny checkpoint of each family, with the modules that went in."""
    folder = tmp_path_factory.mktemp("checkpoints")
    files = {}
    for family in FAMILIES:
        path = folder / f"{family}.safetensors"
        modules = tiny.write_tiny(path, family)
        files[family] = (detect(read_header(path)), modules)
    return files


CASES = [(family, part) for family in FAMILIES for part in PREFIXES[family]]


@pytest.mark.parametrize(("family", "part"), CASES)
def test_each_part_comes_back_bit_for_bit(written, family, part):
    info, modules = written[family]
    module = load_part(info, part)
    before, after = modules[part].state_dict(), module.state_dict()
    assert list(after) == list(before)
    for key, tensor in after.items():
        assert torch.equal(tensor, before[key].half()), key
    assert not module.training
    assert not any(p.requires_grad for p in module.parameters())
    assert not any(t.is_meta for t in (*module.parameters(), *module.buffers()))


@pytest.mark.parametrize(("family", "part"), CASES)
def test_loaded_part_computes_what_the_original_does(written, family, part):
    info, modules = written[family]
    outputs = []
    for module in (load_part(info, part).float(), modules[part].half().float()):
        generator = torch.Generator().manual_seed(0)
        if part == "denoiser":
            config = info.denoiser
            pooled = config.pooled_dim if family == "sd3" else config.label_dim
            pooled = pooled and torch.randn(1, pooled, generator=generator)
            x = torch.randn(1, config.in_channels, 8, 8, generator=generator)
            context = torch.randn(1, 5, config.context_dim, generator=generator)
            out = module(x, torch.tensor([500.0]), context, pooled)
        elif part == "vae":
            out = module.encode(torch.rand(1, 3, 16, 16, generator=generator))
        else:
            out = module(torch.arange(7)[None]).last_hidden_state
        outputs.append(out)
    assert torch.equal(*outputs)


@pytest.mark.parametrize("family", FAMILIES)
def test_written_file_is_detected_with_every_number(written, family):
    info, _ = written[family]
    assert isinstance(info, CheckpointInfo)
    row = tiny.TINY[family]
    assert (info.family, info.denoiser, info.vae) == (family, row.denoiser, row.vae)
    told = {part: getattr(info, part) for part in ("clip_l", "clip_g", "clip_h", "t5")}
    assert {part: config for part, config in told.items() if config is not None} == row.encoders
    assert (info.latent, info.defaults) == (row.latent, row.defaults)
    assert (info.tokenizer_clip, info.tokenizer_t5) == ('{"a": 1}', '{"b": 2}' if "t5" in row.encoders else None)
    assert (info.precision, info.notes) == ("fp16", ())
    assert {part: source.prefix for part, source in info.sources.items()} == PREFIXES[family]


def test_sdxl_clip_g_is_written_in_open_clip_naming_and_read_as_views(written):
    info, _ = written["sdxl"]
    tensors = read_header(info.path).tensors
    prefix = "conditioner.embedders.1.model."
    assert tensors[prefix + "text_projection"].shape == (128, 128)
    assert tensors[prefix + "transformer.resblocks.0.attn.in_proj_weight"].shape == (384, 128)
    model = load_part(info, "clip_g")
    attention = model.text_model.encoder.layers[0].self_attn
    q, k, v = (getattr(attention, f"{n}_proj").weight for n in "qkv")
    assert k.data_ptr() - q.data_ptr() == v.data_ptr() - k.data_ptr() == 128 * 128 * 2
    assert model.text_projection.weight.stride() == (1, 128)  # the bare matrix P, seen as the Linear weight of x @ P


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="asks Linux where memory comes from")
@pytest.mark.parametrize(("family", "part"), CASES)
def test_every_weight_lies_in_the_mapped_file(written, family, part):
    info, _ = written[family]
    module = load_part(info, part)
    spans = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        if line.endswith(str(info.path)):
            begin, end = re.match(r"([0-9a-f]+)-([0-9a-f]+)", line).groups()
            spans.append((int(begin, 16), int(end, 16)))
    for name, parameter in module.named_parameters():
        assert any(begin <= parameter.data_ptr() < end for begin, end in spans), name


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="asks Linux what memory is anonymous")
def test_loading_takes_next_to_no_memory_of_its_own(tmp_path):
    config = replace(builders.TINY_VAE, channels=128, channel_mult=(1, 2, 2), norm_groups=32)
    path = tmp_path / "vae.safetensors"
    write_tensors(path, builders.tiny_vae(config).state_dict(), {})
    size = path.stat().st_size
    info = detect(read_header(path))
    load_vae_file(info)  # warm imports
    before = anonymous_bytes()
    module = load_vae_file(info)
    total = sum(float(p.sum()) for p in module.parameters())  # touch every page
    grown = anonymous_bytes() - before
    assert total == total
    assert size > 30_000_000
    assert grown < 0.1 * size


def anonymous_bytes() -> int:
    text = Path("/proc/self/smaps_rollup").read_text()
    return 1024 * int(re.search(r"^Anonymous:\s+(\d+) kB", text, re.MULTILINE)[1])


def test_vae_file_comes_back_bit_for_bit(tmp_path):
    vae = builders.tiny_vae(builders.TINY_VAE)
    for prefix in ("", "first_stage_model."):
        path = tmp_path / f"{len(prefix)}.safetensors"
        state = {prefix + key: tensor for key, tensor in vae.state_dict().items()}
        write_tensors(path, state, {"easel.vae": '{"norm_groups": 8}'})
        info = detect(read_header(path))
        assert isinstance(info, VaeInfo)
        loaded = load_vae_file(info).state_dict()
        assert all(torch.equal(loaded[key], tensor) for key, tensor in vae.state_dict().items())


def test_denoiser_alone_without_prefix_loads(tmp_path):
    unet = builders.tiny_unet()
    path = tmp_path / "unet.safetensors"
    write_tensors(path, unet.state_dict(), {})
    info = detect(read_header(path))
    assert all(
        torch.equal(a, b) for a, b in zip(load_part(info, "denoiser").parameters(), unet.parameters(), strict=True)
    )
    with pytest.raises(ModelUnsupported, match="no part 'clip_l'"):
        load_part(info, "clip_l")


def test_number_formats_and_markers_are_kept(tmp_path):
    modules = tiny.tiny_modules("sdxl")
    path = tmp_path / "v.safetensors"
    write_checkpoint(path, family="sdxl", modules=modules, metadata=tiny.tiny_metadata("sdxl"),
                     dtype=torch.bfloat16, markers=["v_pred", "ztsnr"])  # fmt: skip
    info = detect(read_header(path))
    assert (info.precision, info.prediction, info.zero_terminal_snr) == ("bf16", "v", True)
    assert next(load_part(info, "denoiser").parameters()).dtype == torch.bfloat16


def test_plain_fp8_loads_in_its_own_format(tmp_path):
    path = tmp_path / "fp8.safetensors"
    tiny.write_tiny(path, "sd3", dtype=torch.float8_e4m3fn)
    info = detect(read_header(path))
    assert info.precision == "fp8"
    for part in info.sources:
        assert {p.dtype for p in load_part(info, part).parameters()} == {torch.float8_e4m3fn}


# What files in circulation have besides, or lack.


@pytest.fixture
def tensors_of(written):
    """All tensors of a written checkpoint, its metadata, and its info."""

    def read(family):
        info, _ = written[family]
        return safetensors.torch.load_file(info.path), dict(read_header(info.path).metadata)

    return read


def rewritten(tmp_path, tensors, metadata) -> CheckpointInfo:
    path = tmp_path / "rewritten.safetensors"
    write_tensors(path, tensors, metadata)
    info = detect(read_header(path))
    assert isinstance(info, CheckpointInfo)
    return info


@pytest.mark.parametrize("family", FAMILIES)
def test_nuisance_tensors_are_ignored(tmp_path, tensors_of, family):
    tensors, metadata = tensors_of(family)
    for part in PREFIXES[family]:
        if part.startswith("clip"):
            tensors[PREFIXES[family][part] + "text_model.embeddings.position_ids"] = torch.arange(77)[None]
            tensors[PREFIXES[family][part] + "logit_scale"] = torch.tensor(4.6)
    tensors["alphas_cumprod"] = torch.ones(1000)
    tensors["model_ema.num_updates"] = torch.tensor(3)
    if family == "sd3":
        t5 = PREFIXES[family]["t5"]
        tensors[t5 + "encoder.embed_tokens.weight"] = tensors[t5 + "shared.weight"].clone()
    info = rewritten(tmp_path, tensors, metadata)
    for part in info.sources:
        load_part(info, part)


def test_sd1_file_of_2022_without_the_head_of_its_encoder_keys_loads(tmp_path, written, tensors_of):
    tensors, metadata = tensors_of("sd1")
    info = rewritten(tmp_path, {key.replace(".text_model.", "."): t for key, t in tensors.items()}, metadata)
    before, after = (load_part(i, "clip_l").state_dict() for i in (written["sd1"][0], info))
    assert list(before) == list(after)
    assert all(torch.equal(after[key], tensor) for key, tensor in before.items())


@pytest.mark.parametrize(("family", "part"), CASES)
def test_missing_unexpected_and_misshapen_tensors_are_counted_and_named(tmp_path, written, tensors_of, family, part):
    tensors, metadata = tensors_of(family)
    prefix = PREFIXES[family][part]
    mine = sorted(key for key in tensors if key.startswith(prefix))
    ends = ("out_layers.0.bias", "norm_out.bias", "final_layer_norm.bias", "ln_final.bias", "linear.bias")
    lost = next((key for key in mine if key.endswith(ends)), mine[-2])
    misshapen = next(key for key in mine if key.endswith(("norm.weight", "ln_k.weight", "norm2.weight", "ln_2.weight")))
    del tensors[lost]
    tensors[misshapen] = torch.ones(3)
    for number in range(5):
        tensors[f"{prefix}stray.{number}"] = torch.zeros(1)
    with pytest.raises(ModelCorrupt) as told_at_load:  # the file has changed since it was detected
        write_tensors(tmp_path / "changed.safetensors", tensors, metadata)
        info = written[family][0]
        source = replace(info.sources[part], paths=(tmp_path / "changed.safetensors",))
        load_part(replace(info, sources={part: source}), part)
    assert "1 missing" in told_at_load.value.what
    told = [told_at_load.value.what]
    if not info.refusal:
        with pytest.raises(ModelCorrupt) as told_by_header:
            rewritten(tmp_path, tensors, metadata)
        told.append(told_by_header.value.what)
        assert f"missing ({lost.removeprefix(prefix)})" in told[-1]
    for what in told:
        assert "5 unexpected (stray.0, stray.1, stray.2, ...)" in what
        assert "1 of another shape" in what
        assert "[3] instead of" in what


def test_integer_weights_are_refused(tmp_path, tensors_of):
    tensors, metadata = tensors_of("sdxl")
    key = "model.diffusion_model.out.2.bias"
    tensors[key] = tensors[key].to(torch.int16)
    with pytest.raises(ModelCorrupt, match=r"not floating-point numbers \(out.2.bias\)"):
        load_part(rewritten(tmp_path, tensors, metadata), "denoiser")


def test_file_that_changed_since_is_checked_again(tmp_path):
    path = tmp_path / "a.safetensors"
    tiny.write_tiny(path, "sdxl")
    info = detect(read_header(path))
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(ModelCorrupt, match="cut"):
        load_part(info, "vae")
    path.unlink()
    with pytest.raises(NotFound):
        load_part(info, "vae")


# Writing.


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"the old one")

    def fail(tensors, temporary, metadata):
        Path(temporary).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", fail)
    with pytest.raises(DiskFull, match="No space left"):
        write_tensors(path, {"a": torch.zeros(1)}, {})
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]
    assert path.read_bytes() == b"the old one"


@pytest.mark.skipif(sys.platform == "win32", reason="a mapped file cannot be replaced there")
def test_replacing_a_loaded_file_leaves_the_loaded_weights(tmp_path):
    path = tmp_path / "a.safetensors"
    tiny.write_tiny(path, "sdxl", seed=1)
    vae = load_part(detect(read_header(path)), "vae")
    before = [parameter.clone() for parameter in vae.parameters()]
    tiny.write_tiny(path, "sdxl", seed=2)
    assert all(torch.equal(a, b) for a, b in zip(before, vae.parameters(), strict=True))


def test_writing_into_a_missing_folder_is_a_sentence(tmp_path):
    with pytest.raises(DiskFull, match="could not be written"):
        write_tensors(tmp_path / "no" / "a.safetensors", {"a": torch.zeros(1)}, {})


def test_part_that_the_family_lacks_is_refused(tmp_path):
    with pytest.raises(BadRequest, match="no part 't5'"):
        write_checkpoint(tmp_path / "a.safetensors", family="sdxl", modules={"t5": {}}, metadata={})
