"""Each row of FORMATS.md section 2 that other files of these tests do not hold already; first of all, every list."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from backend.errors import ModelCorrupt
from backend.formats.configs import CheckpointInfo, EncoderInfo, OtherFile, VaeInfo
from backend.formats.control_configs import ControlInfo
from backend.formats.detect import detect
from backend.formats.expected import expected
from backend.formats.reader import read_header
from tests.formats.files import HEADERS, Tensors, keys, published
from tests.formats.gguf_files import write_gguf
from tests.formats.test_detect import DENOISER, SD1, SDXL_UNET, renamed
from tests.formats.test_measure import UNETS

VERDICTS: dict[str, tuple[type, str]] = {
    "sd15": (CheckpointInfo, "SD1.5"),
    "sd15_inpaint": (CheckpointInfo, "SD1.5 inpainting"),
    "sd21": (CheckpointInfo, "SD2"),
    "sdxl_base": (CheckpointInfo, "SDXL base"),
    "sdxl_inpaint": (CheckpointInfo, "SDXL inpainting"),
    "sdxl_refiner": (CheckpointInfo, "SDXL refiner"),
    "sd3_medium_incl_clips_t5xxl": (CheckpointInfo, "SD3 Medium"),
    "sd35_medium": (CheckpointInfo, "SD3.5 Medium"),
    "sd35_large": (CheckpointInfo, "SD3.5 Large"),
    "sdxl_vae": (VaeInfo, "SDXL"),
    "sd3_vae": (VaeInfo, "SD3 or SD3.5"),
    "clip_l": (EncoderInfo, "clip_l"),
    "clip_g": (EncoderInfo, "clip_g"),
    "t5xxl": (EncoderInfo, "t5"),
    "sdxl_controlnet_diffusers": (ControlInfo, "ControlNet for sdxl"),
    "sd35_large_controlnet_canny": (ControlInfo, "ControlNet for SD3.5 for sd3"),
}


def verdict(info) -> tuple[type, str]:
    match info:
        case CheckpointInfo():
            return CheckpointInfo, info.variant
        case VaeInfo():
            return VaeInfo, info.questions[0].assumed
        case EncoderInfo():
            return EncoderInfo, info.part
        case ControlInfo():
            return ControlInfo, f"{info.kind} for {info.family}"
        case _:
            return OtherFile, f"{info.kind} for {info.family}"


@pytest.mark.parametrize("name", sorted(file.name.removesuffix(".tsv.gz") for file in HEADERS.glob("*.tsv.gz")))
def test_every_published_list_is_told_apart_whatever_its_name(detected, name):
    assert verdict(detected(published(name))) == VERDICTS[name]


def unet_alone(config) -> Tensors:
    return {DENOISER + key: ("F16", list(shape)) for key, shape in expected(config).items()}


@pytest.mark.parametrize(
    ("build", "variant"),
    [
        ("SSD-1B", "SSD-1B"),
        ("Vega", "Segmind Vega"),
        ("KOALA 700M", "KOALA 700M"),
        ("KOALA 1B", "KOALA 1B"),
        ("SDXL", "SDXL base"),
    ],
)
def test_distilled_unets_are_told_by_their_depths(detected, build, variant):
    info = detected(unet_alone(UNETS[build]))
    assert (info.family, info.variant, info.denoiser) == ("sdxl", variant, UNETS[build])


def test_instruct_pix2pix_is_told_by_its_eight_inputs(detected):
    for config, variant in ((SDXL_UNET, "SDXL instruct-pix2pix"), (SD1, "SD1.5 instruct-pix2pix")):
        assert detected(unet_alone(replace(config, in_channels=8))).variant == variant


NUISANCE = [
    "betas", "alphas_cumprod", "alphas_cumprod_prev", "sqrt_alphas_cumprod", "sqrt_recip_alphas_cumprod",
    "posterior_variance", "posterior_mean_coef1", "log_one_minus_alphas_cumprod", "lvlb_weights", "logvar",
    "model_ema.decay", "model_ema.num_updates", "denoiser.sigmas", "embedding_manager.initial_embeddings",
    "global_step", "loss.discriminator.main.0.weight",
]  # fmt: skip


@pytest.mark.parametrize("name", ["sd15", "sd21", "sdxl_base", "sdxl_refiner", "sd3_medium_incl_clips_t5xxl"])
def test_nuisance_keys_and_an_ema_copy_change_nothing(detected, name):
    tensors = published(name)
    ema = keys(*(f"model_ema.diffusion_model{key[len(DENOISER) :].replace('.', '')}"
                 for key in tensors if key.startswith(DENOISER)), shape=(4,))  # fmt: skip
    plain, more = detected(tensors), detected(tensors | keys(*NUISANCE, shape=(1000,)) | ema)
    here = {part: replace(source, paths=()) for part, source in more.sources.items()}
    assert here == {part: replace(source, paths=()) for part, source in plain.sources.items()}
    assert replace(more, path=plain.path, name=plain.name, sources=plain.sources) == plain


@pytest.mark.parametrize(("name", "parts"), [
    ("sdxl_base", ["conditioner.embedders.0.transformer.text_model.embeddings.position_ids",
                   "conditioner.embedders.1.model.logit_scale"]),
    ("sd3_medium_incl_clips_t5xxl", ["text_encoders.t5xxl.transformer.encoder.embed_tokens.weight",
                                     "text_encoders.clip_l.transformer.text_model.embeddings.position_ids"]),
])  # fmt: skip
def test_nuisance_keys_inside_a_part_may_be_there_or_not(detected, name, parts):
    tensors = published(name)
    without = {key: value for key, value in tensors.items() if key not in parts}
    with_them = without | {key: ("F32", [1, 77]) for key in parts}
    assert detected(without).variant == detected(with_them).variant == detected(tensors).variant


def test_text_encoder_with_long_positions_is_read_as_such(detected):
    key = "text_model.embeddings.position_embedding.weight"
    info = detected(published("clip_l") | {key: ("F16", [248, 768])})
    assert isinstance(info, EncoderInfo)
    assert (info.part, info.config.positions) == ("clip_l", 248)


def test_sdxl_without_encoders_or_vae_says_what_is_missing(detected):
    tensors = {key: value for key, value in published("sdxl_base").items() if not key.startswith("conditioner.")}
    assert detected(tensors).notes == ("It has no CLIP-L text encoder.", "It has no CLIP-G text encoder.")
    alone = renamed({k: v for k, v in tensors.items() if k.startswith(DENOISER)}, DENOISER, "")
    assert "It has no VAE." in detected(alone).notes


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "flux"])
def test_gguf_of_another_model_is_named(tmp_path, architecture):
    names = {"flux": "double_blocks.0.img_attn.qkv.weight"}
    tensors = {names.get(architecture, "blk.0.attn_q.weight"): (np.zeros((4, 32), np.float32), "F32")}
    info = detect(read_header(write_gguf(tmp_path / "model.gguf", architecture, tensors)))
    assert info.kind == {"flux": "FLUX checkpoint"}.get(architecture, "language model")


@pytest.mark.parametrize(
    ("name", "prefix", "end"),
    [
        ("sd15", DENOISER, "norm2.weight"),
        ("sd15", "cond_stage_model.transformer.", "layer_norm2.weight"),
        ("sd21", "cond_stage_model.model.", "ln_2.weight"),
        ("sdxl_base", DENOISER, "norm2.weight"),
        ("sdxl_base", "first_stage_model.", "norm2.weight"),
        ("sd35_medium", DENOISER, "mlp.fc1.weight"),
        ("sd3_medium_incl_clips_t5xxl", "text_encoders.t5xxl.transformer.", "layer_norm.weight"),
        ("sdxl_vae", "", "norm2.weight"),
        ("clip_g", "", "layer_norm2.weight"),
        ("t5xxl", "", "layer_norm.weight"),
    ],
)
def test_missing_and_unexpected_tensors_are_counted_from_the_header(detected, name, prefix, end):
    tensors = published(name)
    lost = [key for key in tensors if key.startswith(prefix) and key.endswith(end)][4:9]
    with pytest.raises(ModelCorrupt) as caught:
        detected({key: value for key, value in tensors.items() if key not in lost} | keys(prefix + "stray"))
    assert "tensors 5 missing (" in caught.value.what
    assert sum(key.removeprefix(prefix) in caught.value.what for key in lost) == 3
    assert "1 unexpected (stray)" in caught.value.what
    assert 10 <= len(str(caught.value)) <= 600
