"""Text encoders in files of their own, in every number format: detected as what they are, and run."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from backend.checkpoints.load import Arithmetic, load_part
from backend.errors import ModelUnsupported
from backend.formats.configs import CLIPConfig, EncoderInfo
from backend.formats.detect import detect
from backend.formats.easel_metadata import written
from backend.formats.reader import read_header
from backend.text.encoders import build_clip, build_t5, clip_states, t5_states
from tests import builders
from tests.checkpoints import tiny
from tests.checkpoints.gguf_networks import as_gguf, llama_cpp_names
from tests.checkpoints.test_storage import as_bytes, dequantised, scaled_fp8, write

FLOAT32 = Arithmetic(torch.float32)


def loaded(tmp_path, info: EncoderInfo):
    """The network as a checkpoint that takes it would load it."""
    tiny.write_tiny(tmp_path / "sd3.safetensors", "sd3")
    owner = detect(read_header(tmp_path / "sd3.safetensors"))
    owner = replace(owner, **{info.part: info.config}, sources={**owner.sources, info.part: info.source})
    return load_part(owner, info.part, FLOAT32)


@pytest.mark.parametrize("naming", ["scaled", "weight_scale", "comfy_quant"])
def test_a_scaled_fp8_t5_is_one(tmp_path, naming):
    state = scaled_fp8(builders.randomise(build_t5(tiny.T5)).state_dict(), naming)
    info = detect(read_header(write(tmp_path / "t5.safetensors", state, "")))
    assert isinstance(info, EncoderInfo)
    assert (info.part, info.precision) == ("t5", "fp8 scaled")
    reference = build_t5(replace(tiny.T5, min_length=77, max_length=256))
    reference.load_state_dict(dequantised(state))
    ids = torch.randint(0, 400, (1, 30), generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        torch.testing.assert_close(
            t5_states(loaded(tmp_path, info), ids), t5_states(reference, ids), rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.bfloat16])
def test_a_plain_fp8_or_half_precision_clip_is_one(tmp_path, dtype):
    state = {key: t.to(dtype) for key, t in builders.randomise(build_clip(tiny.CLIP_G)).state_dict().items()}
    state = {key: t for key, t in state.items() if "position_ids" not in key}
    said = {"easel.clip_g": written("easel.clip_g", tiny.CLIP_G)}
    info = detect(read_header(write(tmp_path / "g.safetensors", state, "", said)))
    assert isinstance(info, EncoderInfo)
    assert isinstance(info.config, CLIPConfig)
    reference = build_clip(tiny.CLIP_G)
    reference.load_state_dict({key: tensor.float() for key, tensor in state.items()})
    ids = torch.tensor([[298, 5, 6, 7, 299, 0, 0]])
    with torch.inference_mode():
        ours, want = (
            clip_states(model, ids, eos=299, clip_skip=2).pooled_projected
            for model in (loaded(tmp_path, info), reference)
        )
    torch.testing.assert_close(ours, want, rtol=1e-4, atol=1e-4)


def test_a_t5_in_gguf_is_one(tmp_path):
    state = builders.randomise(build_t5(replace(tiny.T5, d_ff=512))).state_dict()
    path, values = as_gguf(tmp_path / "t5.gguf", llama_cpp_names(state), "Q8_0", arch="t5encoder")
    info = detect(read_header(path))
    assert isinstance(info, EncoderInfo)
    assert (info.part, info.precision) == ("t5", "GGUF Q8_0")
    reference = build_t5(info.config)
    reference.load_state_dict(dict(zip(state, values.values(), strict=True)))
    ids = torch.randint(0, 400, (1, 30), generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        torch.testing.assert_close(
            t5_states(loaded(tmp_path, info), ids), t5_states(reference, ids), rtol=1e-4, atol=1e-4
        )


def test_a_format_that_is_not_known_is_refused_with_the_file(tmp_path):
    state = scaled_fp8(builders.randomise(build_t5(tiny.T5)).state_dict(), "comfy_quant")
    layer = next(key for key in state if key.endswith(".comfy_quant"))
    state[layer] = as_bytes({"format": "nvfp4"})
    with pytest.raises(ModelUnsupported, match=r"t5\.safetensors.*nvfp4"):
        detect(read_header(write(tmp_path / "t5.safetensors", state, "")))
