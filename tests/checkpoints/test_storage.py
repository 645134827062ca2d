"""Every container and precision gives the numbers that it stores, in networks that keep them as they are stored."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from backend.checkpoints.load import Arithmetic, load_part
from backend.errors import ModelCorrupt, ModelUnsupported, UserError
from backend.formats import measure
from backend.formats.configs import CheckpointInfo, PartSource, T5Config
from backend.formats.detect import detect
from backend.formats.layout import DENOISER
from backend.formats.reader import read_header
from backend.formats.storage import bytes_as, part_source
from backend.nn.mmdit import MMDiT
from backend.nn.stored import StoredConv2d, StoredEmbedding, StoredLinear
from backend.nn.unet import UNet
from backend.text.encoders import build_t5, t5_states
from tests import builders
from tests.checkpoints import tiny
from tests.checkpoints.gguf_networks import as_gguf, llama_cpp_names

FLOAT32 = Arithmetic(torch.float32)
LOW_MEMORY = Arithmetic(torch.float32, keep_all=True)
E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2


def info_of(path: Path) -> CheckpointInfo:
    info = detect(read_header(path))
    assert isinstance(info, CheckpointInfo)
    assert info.refusal == ""
    return info


def stored_layers(module: nn.Module) -> int:
    return sum(isinstance(m, StoredLinear | StoredConv2d | StoredEmbedding) for m in module.modules())


def unet_output(unet: nn.Module, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    x, context = torch.randn(2, 4, 16, 12, generator=generator), torch.randn(2, 7, 192, generator=generator)
    pooled = torch.randn(2, 128 + 6 * 256, generator=generator)
    with torch.inference_mode():
        return unet(x.to(dtype), torch.tensor([3.0, 700.0]), context.to(dtype), pooled.to(dtype))


def mmdit_output(mmdit: nn.Module) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    x, context = torch.randn(2, 16, 12, 8, generator=generator), torch.randn(2, 7, 256, generator=generator)
    with torch.inference_mode():
        return mmdit(x, torch.tensor([3.0, 700.0]), context, torch.randn(2, 192, generator=generator))


@pytest.fixture(scope="module")
def unet() -> dict[str, Tensor]:
    return builders.tiny_unet().state_dict()


@pytest.fixture(scope="module")
def mmdit() -> dict[str, Tensor]:
    return builders.tiny_mmdit().state_dict()


def mmdit_of(state: dict[str, Tensor]) -> nn.Module:
    """The tiny MMDiT with these float32 weights."""
    with torch.device("meta"):
        network = MMDiT(builders.TINY_MMDIT_X)
    network.load_state_dict(state, assign=True)
    return network.eval().requires_grad_(False)


@pytest.mark.parametrize("arithmetic", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, E4M3, E5M2])
def test_a_stored_network_computes_the_bits_of_one_that_was_cast(tmp_path, unet, dtype, arithmetic):
    info = info_of(write(tmp_path / "a.safetensors", {key: tensor.to(dtype) for key, tensor in unet.items()}, ""))
    low = load_part(info, "denoiser", Arithmetic(arithmetic, keep_all=True))
    cast = load_part(info, "denoiser", Arithmetic(arithmetic, keep_quantised=False))
    assert (stored_layers(low) > 0) == (dtype is not arithmetic)
    assert stored_layers(cast) == 0
    assert torch.equal(unet_output(low, arithmetic), unet_output(cast, arithmetic))


@pytest.mark.parametrize("part", ["denoiser", "clip_l", "clip_g", "t5"])
def test_every_kind_of_network_runs_from_half_precision(tmp_path, part):
    modules = tiny.write_tiny(tmp_path / "a.safetensors", "sd3", dtype=torch.float16)
    info = info_of(tmp_path / "a.safetensors")
    stored, reference = load_part(info, part, LOW_MEMORY), modules[part].half().float()
    assert stored_layers(stored) > 0
    with torch.inference_mode():
        if part == "denoiser":
            assert torch.equal(mmdit_output(stored), mmdit_output(reference))
            assert stored.pos_embed.dtype is torch.float16  # the largest table stays in the file as well
        else:
            ids = torch.randint(0, 290, (1, 20), generator=torch.Generator().manual_seed(2))
            assert torch.equal(stored(input_ids=ids)[0], reference(input_ids=ids)[0])


def scaled_fp8(state: dict[str, Tensor], naming: str, dtype: torch.dtype = E4M3) -> dict[str, Tensor]:
    """Matrices of a network as fp8 with a scale each, as ComfyUI's converters write them; all else stays float32."""
    out: dict[str, Tensor] = {}
    for key, tensor in state.items():
        if tensor.ndim != 2 or not key.endswith(".weight"):
            out[key] = tensor
            continue
        layer = key.removesuffix(".weight")
        scale = tensor.abs().max() / torch.finfo(dtype).max
        out[key] = (tensor / scale).to(dtype)
        out[f"{layer}.{'scale_weight' if naming == 'scaled' else 'weight_scale'}"] = scale
        out[f"{layer}.{'scale_input' if naming == 'scaled' else 'input_scale'}"] = torch.tensor(1.0)
        if naming == "comfy_quant":
            name = {E4M3: "float8_e4m3fn", E5M2: "float8_e5m2"}[dtype]
            out[f"{layer}.comfy_quant"] = as_bytes({"format": name, "full_precision_matrix_mult": True})
    if naming == "scaled":
        out["scaled_fp8"] = torch.zeros(0, dtype=dtype)
    return out


def as_bytes(said: object) -> Tensor:
    return torch.frombuffer(bytearray(json.dumps(said).encode()), dtype=torch.uint8)


def write(path: Path, state: dict[str, Tensor], prefix: str, metadata: dict[str, str] | None = None) -> Path:
    named = {prefix + key: tensor.contiguous() for key, tensor in state.items()}
    safetensors.torch.save_file(named, path, metadata or {})
    return path


def dequantised(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """What the fp8 tensors say, in float64 rounded to float32."""
    out = {}
    for key, tensor in state.items():
        layer, _, kind = key.rpartition(".")
        if kind in ("scale_weight", "weight_scale", "scale_input", "input_scale", "comfy_quant") or key == "scaled_fp8":
            continue
        scale = state.get(f"{layer}.scale_weight", state.get(f"{layer}.weight_scale")) if kind == "weight" else None
        out[key] = (tensor.double() * (1.0 if scale is None else scale.double())).float()
    return out


@pytest.mark.parametrize("prefix", ["", DENOISER])
@pytest.mark.parametrize("dtype", [E4M3, E5M2])
@pytest.mark.parametrize("naming", ["scaled", "weight_scale", "comfy_quant"])
def test_scaled_fp8_networks_compute_what_their_weights_times_their_scales_do(tmp_path, naming, dtype, prefix, mmdit):
    state = scaled_fp8(mmdit, naming, dtype)
    info = info_of(write(tmp_path / "a.safetensors", state, prefix))
    assert (info.precision, info.variant) == ("fp8 scaled", "SD3.5 Medium")
    network = load_part(info, "denoiser", FLOAT32)
    reference = mmdit_of(dequantised(state))
    assert stored_layers(network) == sum(tensor.dtype is dtype for tensor in state.values()) - (naming == "scaled")
    assert torch.equal(mmdit_output(network), mmdit_output(reference))


def test_fact_15_biases_and_norms_of_scaled_fp8_files_keep_every_bit(tmp_path, mmdit):
    state = scaled_fp8(mmdit, "scaled")
    network = load_part(info_of(write(tmp_path / "a.safetensors", state, "")), "denoiser", FLOAT32)
    small = {key: tensor for key, tensor in state.items() if key.endswith((".bias", "ln_q.weight", "ln_k.weight"))}
    found = network.state_dict()
    assert len(small) > 20
    assert all(torch.equal(found[key], tensor) for key, tensor in small.items())


def test_a_format_in_the_header_alone_is_read_too(tmp_path, mmdit):
    state = scaled_fp8(mmdit, "weight_scale")
    layers = {
        DENOISER + key.removesuffix(".weight_scale"): {"format": "float8_e4m3fn"} for key in state if "_scale" in key
    }
    told = {"_quantization_metadata": json.dumps({"layers": layers})}
    network = load_part(info_of(write(tmp_path / "a.safetensors", state, DENOISER, told)), "denoiser", FLOAT32)
    reference = mmdit_of(dequantised(state))
    assert torch.equal(mmdit_output(network), mmdit_output(reference))


def test_int8_with_one_scale_a_tensor_or_a_row(tmp_path, mmdit):
    plain = mmdit
    state = dict(plain)
    for key, rows in (("context_embedder", False), ("joint_blocks.0.x_block.mlp.fc1", True)):
        weight = plain[f"{key}.weight"]
        scale = (weight.abs().amax(1, keepdim=True) if rows else weight.abs().max()) / 127
        state[f"{key}.weight"] = (weight / scale).round().to(torch.int8)
        state[f"{key}.weight_scale"] = scale
        state[f"{key}.comfy_quant"] = as_bytes({"format": "int8_tensorwise"})
    network = load_part(info_of(write(tmp_path / "a.safetensors", state, "")), "denoiser", FLOAT32)
    reference = mmdit_of(
        {k: state[k].float() * state[k.replace(".weight", ".weight_scale")] if state[k].dtype is torch.int8 else t
         for k, t in plain.items()}
    )  # fmt: skip
    assert torch.equal(mmdit_output(network), mmdit_output(reference))


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"format": "nvfp4"}, "nvfp4"),
        ({"format": "int8_tensorwise", "convrot": True, "convrot_groupsize": 256}, "int8_tensorwise with convrot"),
        ({"format": "made_up"}, "made_up"),
    ],
)
def test_formats_that_are_not_known_are_refused_by_name(tmp_path, said, words, mmdit):
    state = scaled_fp8(mmdit, "weight_scale")
    state["context_embedder.comfy_quant"] = as_bytes(said)
    info = detect(read_header(write(tmp_path / "a.safetensors", state, "")))
    assert isinstance(info, CheckpointInfo)
    assert words in info.refusal  # when the file is listed, and again if it is loaded all the same
    with pytest.raises(ModelUnsupported, match=words) as caught:
        load_part(info, "denoiser", FLOAT32)
    assert "context_embedder" in str(caught.value)


def test_a_scale_without_a_weight_or_of_another_size_is_refused(tmp_path, mmdit):
    state = scaled_fp8(mmdit, "weight_scale")
    stray = write(tmp_path / "a.safetensors", state | {"nobody.weight_scale": torch.tensor(1.0)}, "")
    with pytest.raises(ModelCorrupt, match="not the weight"):
        load_part(info_of(stray), "denoiser", FLOAT32)
    wrong = write(tmp_path / "b.safetensors", state | {"context_embedder.weight_scale": torch.ones(5)}, "")
    with pytest.raises(ModelCorrupt, match="does not fit"):
        load_part(info_of(wrong), "denoiser", FLOAT32)


def test_a_scaled_encoder_in_open_clip_naming_is_decoded_for_its_conversion(tmp_path):
    tiny.write_tiny(tmp_path / "plain.safetensors", "sdxl", dtype=torch.float32)
    state = safetensors.torch.load_file(tmp_path / "plain.safetensors")
    layer = "conditioner.embedders.1.model.transformer.resblocks.0.mlp.c_fc"
    scale = state[f"{layer}.weight"].abs().max() / 448
    state |= {f"{layer}.weight": (state[f"{layer}.weight"] / scale).to(E4M3), f"{layer}.scale_weight": scale}
    info = info_of(write(tmp_path / "a.safetensors", state, "", tiny.tiny_metadata("sdxl")))
    found = load_part(info, "clip_g", FLOAT32).state_dict()["text_model.encoder.layers.0.mlp.fc1.weight"]
    assert torch.equal(found, state[f"{layer}.weight"].float() * scale)


@pytest.mark.parametrize("prefix", ["", DENOISER])
@pytest.mark.parametrize("kind", ["Q4_0", "Q8_0", "Q4_K", "Q6_K"])
def test_an_mmdit_in_gguf_computes_what_the_package_s_numbers_do(tmp_path, kind, prefix, mmdit):
    path, values = as_gguf(tmp_path / "a.gguf", mmdit, kind, prefix)
    info = info_of(path)
    assert info.precision == f"GGUF {kind}"
    network, reference = load_part(info, "denoiser", FLOAT32), mmdit_of(values)
    assert stored_layers(network) > 2
    assert torch.equal(mmdit_output(network), mmdit_output(reference))


@pytest.mark.parametrize(("kind", "precision"), [("F16", "fp16"), ("BF16", "bf16")])
def test_half_precision_in_gguf_is_like_half_precision_anywhere(tmp_path, kind, precision, mmdit):
    path, values = as_gguf(tmp_path / "a.gguf", mmdit, kind)
    info = info_of(path)
    assert info.precision == precision
    for how in (FLOAT32, LOW_MEMORY):
        network = load_part(info, "denoiser", how)
        assert (stored_layers(network) > 0) == how.keep_all
        assert torch.equal(mmdit_output(network), mmdit_output(mmdit_of(values)))


def test_a_unet_in_gguf_has_its_convolutions_back(tmp_path, unet):
    path, values = as_gguf(tmp_path / "a.gguf", unet, "Q4_K", arch="sdxl")
    network = load_part(info_of(path), "denoiser", FLOAT32)
    with torch.device("meta"):
        reference = UNet(builders.TINY_UNET)
    reference.load_state_dict(values, assign=True)
    reference.eval().requires_grad_(False)
    assert sum(isinstance(m, StoredConv2d) for m in network.modules()) > 5
    assert torch.equal(unet_output(network), unet_output(reference))


def test_a_t5_in_gguf_runs_under_its_llama_cpp_names(tmp_path):
    config = T5Config(256, 2, 4, 64, 512, 400)
    model = builders.randomise(build_t5(config))
    renamed = llama_cpp_names(model.state_dict())
    path, values = as_gguf(tmp_path / "t5.gguf", renamed, "Q4_K", arch="t5encoder")
    header = read_header(path)
    assert measure.t5_config(header.tensors) == config
    source = part_source((path,), "", header.tensors, "canonical")
    tiny.write_tiny(tmp_path / "sd3.safetensors", "sd3")
    info = info_of(tmp_path / "sd3.safetensors")
    loaded = load_part(with_part(info, "t5", config, source), "t5", FLOAT32)
    for key, tensor in zip(model.state_dict(), values.values(), strict=True):
        model.state_dict()[key].copy_(tensor)
    ids = torch.randint(0, 400, (1, 30), generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        assert stored_layers(loaded) > 10
        assert torch.equal(t5_states(loaded, ids), t5_states(model, ids))


def with_part(info: CheckpointInfo, part: str, config: object, source: PartSource) -> CheckpointInfo:
    return replace(info, **{part: config}, sources={**info.sources, part: source})


def test_flipped_bytes_of_a_gguf_file_give_our_errors_or_a_whole_network(tmp_path, mmdit):
    path, _ = as_gguf(tmp_path / "a.gguf", mmdit, "Q4_K")
    whole = path.read_bytes()
    end = min(info.offset for info in read_header(path).tensors.values())
    rng = random.Random(11)
    refused = 0
    with path.open("r+b") as file:
        for _ in range(150):
            place = rng.randrange(end)
            put(file, place, bytes([whole[place] ^ (1 << rng.randrange(8))]))
            try:
                info = detect(read_header(path))
                if isinstance(info, CheckpointInfo):
                    load_part(info, "denoiser", FLOAT32)
            except UserError:
                refused += 1
            put(file, place, whole[place : place + 1])
    assert refused > 20


def put(file, place: int, data: bytes) -> None:
    file.seek(place)
    file.write(data)
    file.flush()


def test_what_a_part_takes_is_told_by_each_tensor_s_format(tmp_path, unet):
    info = info_of(write(tmp_path / "a.safetensors", {key: tensor.half() for key, tensor in unet.items()}, ""))
    for how in (FLOAT32, LOW_MEMORY, Arithmetic(torch.bfloat16)):
        module = load_part(info, "denoiser", how)
        held = sum(t.nbytes for t in (*module.parameters(), *module.buffers()))
        source = info.sources["denoiser"]
        told = bytes_as(source, how.dtype.itemsize, keeps_quantised=how.keep_quantised, keeps_all=how.keep_all)
        assert held == pytest.approx(told, rel=0.02)  # biases are cast in any case


def test_a_mixed_file_is_not_counted_by_one_width(tmp_path, mmdit):
    state = {key: t.to(E4M3) if t.ndim == 2 else t for key, t in mmdit.items()}
    info = info_of(write(tmp_path / "a.safetensors", state, ""))
    module = load_part(info, "denoiser", FLOAT32)
    held = sum(t.nbytes for t in (*module.parameters(), *module.buffers()))
    assert bytes_as(info.sources["denoiser"], 4, keeps_quantised=True, keeps_all=False) == held
