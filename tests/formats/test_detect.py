"""Every published file is told apart by its header alone; what is none of ours is named and sent to its folder."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from backend.errors import ModelCorrupt, ModelUnsupported
from backend.formats import constants
from backend.formats.configs import (
    CheckpointInfo,
    CLIPConfig,
    MMDiTConfig,
    T5Config,
    UNetConfig,
    VAEConfig,
    VaeInfo,
)
from backend.formats.detect import detect
from backend.formats.reader import Header, TensorInfo
from tests.formats.files import Tensors, keys, published

SDXL_UNET = UNetConfig(
    in_channels=4,
    out_channels=4,
    model_channels=320,
    channel_mult=(1, 2, 4),
    res_blocks=(2, 2, 2),
    depth_in=(0, 0, 2, 2, 10, 10),
    depth_mid=10,
    depth_out=(10, 10, 10, 2, 2, 2, 0, 0, 0),
    context_dim=2048,
    label_dim=2816,
)
SD3_MEDIUM = MMDiTConfig(
    depth=24,
    hidden=1536,
    heads=24,
    in_channels=16,
    out_channels=16,
    patch_size=2,
    context_dim=4096,
    pooled_dim=2048,
    pos_embed_side=192,
    qk_norm=False,
    dual_blocks=0,
    mlp_hidden=6144,
)
SD35_MEDIUM = replace(SD3_MEDIUM, pos_embed_side=384, qk_norm=True, dual_blocks=13)
SD35_LARGE = replace(SD3_MEDIUM, depth=38, hidden=2432, heads=38, qk_norm=True, mlp_hidden=9728)
VAE_4 = VAEConfig(latent_channels=4, channels=128, channel_mult=(1, 2, 4, 4), res_blocks=2, quant_conv=True)
VAE_16 = replace(VAE_4, latent_channels=16, quant_conv=False)
CLIP_L = CLIPConfig(768, 12, 12, 3072, 49408, 77, None, "quick_gelu", bos=49406, eos=49407, pad=49407)
CLIP_G = CLIPConfig(1280, 32, 20, 5120, 49408, 77, 1280, "gelu", bos=49406, eos=49407, pad=0)
T5 = T5Config(width=4096, layers=24, heads=64, d_kv=64, d_ff=10240, vocab_size=32128)

DENOISER = "model.diffusion_model."


def without_prefix(tensors: Tensors, prefix: str) -> Tensors:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def test_sdxl_base_has_the_published_numbers(detected):
    info = detected(published("sdxl_base"))
    assert isinstance(info, CheckpointInfo)
    assert (info.family, info.variant, info.prediction) == ("sdxl", "SDXL base", "eps")
    assert info.denoiser == SDXL_UNET
    assert (info.vae, info.clip_l, info.clip_g, info.t5) == (VAE_4, CLIP_L, CLIP_G, None)
    assert (info.latent.scale, info.latent.shift, info.size_multiple) == (0.13025, 0.0, 8)
    assert info.defaults == constants.SDXL_DEFAULTS
    assert info.precision == "fp16"
    assert info.sources["clip_g"].prefix == "conditioner.embedders.1.model."
    assert info.sources["denoiser"].bytes == 5_134_927_368
    assert not info.notes
    assert not info.refusal


def test_sd3_medium_with_encoders_has_the_published_numbers(detected):
    info = detected(published("sd3_medium_incl_clips_t5xxl"))
    assert (info.family, info.variant, info.prediction) == ("sd3", "SD3 Medium", "flow")
    assert info.denoiser == SD3_MEDIUM
    assert (info.vae, info.clip_l, info.clip_g, info.t5) == (VAE_16, replace(CLIP_L, projection_dim=768), CLIP_G, T5)
    assert (info.latent.scale, info.latent.shift, info.size_multiple) == (1.5305, 0.0609, 16)
    assert (info.defaults.steps, info.defaults.cfg_scale, info.defaults.shift) == (50, 5.0, 1.0)


REFINER = UNetConfig(
    4, 4, 384, (1, 2, 4, 4), (2, 2, 2, 2), (0, 0, 4, 4, 4, 4, 0, 0), 4, (0, 0, 0, *(4,) * 6, 0, 0, 0), 1280, 2560
)
SD2 = UNetConfig(4, 4, 320, (1, 2, 4, 4), (2, 2, 2, 2), (1,) * 6 + (0, 0), 1, (0, 0, 0, *(1,) * 9), 1024, None)
SD1 = replace(SD2, context_dim=768, head_dim=None, heads=8, linear_projection=False)
CLIP_H = CLIPConfig(1024, 24, 16, 4096, 49408, 77, 1024, "gelu", bos=49406, eos=49407, pad=0)


@pytest.mark.parametrize(
    ("name", "family", "variant", "denoiser", "part", "clip", "prefix", "layout", "scale"),
    [
        ("sd15", "sd1", "SD1.5", SD1, "clip_l", CLIP_L, "cond_stage_model.transformer.", "canonical", 0.18215),
        ("sd15_inpaint", "sd1", "SD1.5 inpainting", replace(SD1, in_channels=9), "clip_l", CLIP_L,
         "cond_stage_model.transformer.", "canonical", 0.18215),
        ("sd21", "sd2", "SD2", SD2, "clip_h", CLIP_H, "cond_stage_model.model.", "open_clip", 0.18215),
        ("sdxl_refiner", "sdxl_refiner", "SDXL refiner", REFINER, "clip_g", CLIP_G,
         "conditioner.embedders.0.model.", "open_clip", 0.13025),
    ],
)  # fmt: skip
def test_families_of_one_encoder_have_the_published_numbers(
    detected, name, family, variant, denoiser, part, clip, prefix, layout, scale
):
    info = detected(published(name))
    assert isinstance(info, CheckpointInfo)
    assert (info.family, info.variant, info.denoiser, info.vae) == (family, variant, denoiser, VAE_4)
    assert {p: c for p in ("clip_l", "clip_g", "clip_h", "t5") if (c := getattr(info, p)) is not None} == {part: clip}
    assert (info.sources[part].prefix, info.sources[part].layout) == (prefix, layout)
    assert (info.latent.scale, info.size_multiple) == (scale, 8)
    assert not info.notes


def renamed(tensors: Tensors, old: str, new: str) -> Tensors:
    return {new + key.removeprefix(old) if key.startswith(old) else key: value for key, value in tensors.items()}


def test_sd1_file_of_2022_lacks_the_head_of_its_encoder_keys(detected):
    info = detected(
        renamed(published("sd15"), "cond_stage_model.transformer.text_model.", "cond_stage_model.transformer.")
    )
    assert (info.clip_l, info.sources["clip_l"].layout) == (CLIP_L, "headless")


def test_sd2_encoder_may_stand_where_the_refiners_stands(detected):
    info = detected(renamed(published("sd21"), "cond_stage_model.model.", "conditioner.embedders.0.model."))
    assert (info.family, info.clip_h, info.clip_g) == ("sd2", CLIP_H, None)


@pytest.mark.parametrize(("name", "channels", "variant"), [
    ("sd15", 8, "SD1.5 instruct-pix2pix"), ("sd15", 7, "SD1.5 with other inputs"), ("sd21", 9, "SD2 inpainting"),
    ("sd21", 5, "SD2 depth"), ("sd21", 7, "SD2 with other inputs"),
])  # fmt: skip
def test_variants_of_sd1_and_sd2_are_told_by_their_inputs(detected, name, channels, variant):
    first = {DENOISER + "input_blocks.0.0.weight": ("F16", [320, channels, 3, 3])}
    assert detected(published(name) | first).variant == variant


@pytest.mark.parametrize("name", ["sd15", "sd21", "sdxl_base", "sdxl_refiner", "sd3_medium_incl_clips_t5xxl"])
def test_fact_3_clip_l_is_quick_gelu_and_its_larger_kin_are_gelu(detected, name):
    info = detected(published(name))
    activations = {
        part: config.activation for part in ("clip_l", "clip_g", "clip_h") if (config := getattr(info, part, None))
    }
    assert activations
    assert activations == {part: "quick_gelu" if part == "clip_l" else "gelu" for part in activations}


@pytest.mark.parametrize(
    ("name", "variant", "config", "defaults"),
    [
        ("sd35_medium", "SD3.5 Medium", SD35_MEDIUM, (50, 5.0, 3.0)),
        ("sd35_large", "SD3.5 Large", SD35_LARGE, (40, 4.5, 3.0)),
    ],
)
def test_sd35_without_encoders_has_the_published_numbers(detected, name, variant, config, defaults):
    info = detected(published(name))
    assert (info.family, info.variant, info.denoiser, info.vae) == ("sd3", variant, config, VAE_16)
    assert (info.clip_l, info.clip_g, info.t5) == (None, None, None)
    assert (info.defaults.steps, info.defaults.cfg_scale, info.defaults.shift) == defaults
    assert sum("text encoder" in note for note in info.notes) == 3


def test_large_turbo_is_told_by_metadata_only(detected):
    info = detected(published("sd35_large"), {"modelspec.title": "Stable Diffusion 3.5 Large Turbo"})
    assert info.variant == "SD3.5 Large Turbo"
    assert (info.defaults.steps, info.defaults.cfg_scale, info.defaults.sampler) == (4, 1.0, "euler")
    untold = detected(published("sd35_large"))
    assert [(q.about, q.options, q.assumed) for q in untold.questions] == [
        ("variant", ("SD3.5 Large", "SD3.5 Large Turbo"), "SD3.5 Large")
    ]


def test_inpainting_and_editing_variants_are_known_by_their_inputs(detected):
    base = published("sdxl_base")
    inpaint = detected(published("sdxl_inpaint"))
    assert (inpaint.variant, inpaint.denoiser.in_channels) == ("SDXL inpainting", 9)
    ip2p = detected(base | {DENOISER + "input_blocks.0.0.weight": ("F16", [320, 8, 3, 3])})
    assert ip2p.variant == "SDXL instruct-pix2pix"
    assert (inpaint.refusal, ip2p.refusal) == ("", "")


def test_v_prediction_is_told_by_marker_then_by_metadata(detected):
    base = published("sdxl_base")
    marked = detected(base | {"v_pred": ("F32", [0]), "ztsnr": ("F32", [0])})
    assert (marked.prediction, marked.zero_terminal_snr, marked.variant) == ("v", True, "SDXL base")
    assert any("v_pred" in note for note in marked.notes)
    assert marked.defaults.schedule != "karras"
    said = detected(base, {"modelspec.prediction_type": "v"})
    assert (said.prediction, said.zero_terminal_snr) == ("v", False)
    assert any("metadata" in note for note in said.notes)
    assert detected(base, {"modelspec.prediction_type": "epsilon"}).prediction == "eps"


def test_denoiser_alone_is_detected_with_or_without_prefix(detected):
    for name, prefix in (("sdxl_base", ""), ("sd35_medium", ""), ("sdxl_base", "diffusion_model.")):
        bare = {prefix + key: value for key, value in without_prefix(published(name), DENOISER).items()}
        info = detected(bare)
        assert isinstance(info, CheckpointInfo)
        assert {part: source.prefix for part, source in info.sources.items()} == {"denoiser": prefix}
        assert info.vae is None
        assert not any("belong to no part" in note for note in info.notes)


def test_bare_denoiser_beside_prefixed_parts_keeps_them_apart(detected):
    short = {DENOISER: "", "first_stage_model.": "vae."}
    tensors = published("sdxl_base")
    for prefix, shorter in short.items():
        tensors = {shorter + k.removeprefix(prefix) if k.startswith(prefix) else k: v for k, v in tensors.items()}
    info = detected(tensors)
    assert (info.sources["denoiser"].prefix, info.sources["vae"].prefix) == ("", "vae.")
    assert info.denoiser == SDXL_UNET
    assert (info.vae, info.clip_l, info.clip_g) == (VAE_4, CLIP_L, CLIP_G)
    assert info.sources["denoiser"].bytes == 5_134_927_368


@pytest.mark.parametrize(("name", "config"), [("sdxl_vae", VAE_4), ("sd3_vae", VAE_16)])
@pytest.mark.parametrize("prefix", ["", "first_stage_model.", "vae."])
def test_vae_files_say_what_shapes_cannot_tell(detected, name, config, prefix):
    info = detected({prefix + key: value for key, value in published(name).items()})
    assert isinstance(info, VaeInfo)
    assert (info.config, info.latent, info.source.prefix, info.precision) == (config, None, prefix, "fp16")
    options = ("SDXL", "SD1.5 or SD2") if config is VAE_4 else ("SD3 or SD3.5", "FLUX")
    assert [(q.about, q.options) for q in info.questions] == [("latent", options)]
    assert info.made_for == ""


def test_a_vae_file_may_tell_its_own_scale(detected):
    info = detected(published("sdxl_vae"), {"easel.latent": '{"scale": 0.5}'})
    assert isinstance(info, VaeInfo)
    assert info.latent == replace(constants.SDXL_LATENT, scale=0.5)
    assert (info.notes, info.questions) == ((), ())


def test_unets_of_families_that_are_not_run_are_named(detected):
    sd21, base = published("sd21"), published("sdxl_base")
    video = {DENOISER + "input_blocks.1.0.time_stack.in_layers.0.weight": ("F16", [320])}
    label = DENOISER + "label_emb.0.0.weight"
    assert detected(sd21 | {label: ("F16", [1280, 2048])}).kind == "SD2 unCLIP checkpoint"
    assert detected(sd21 | {DENOISER + "label_emb.weight": ("F16", [1000, 1024])}).kind == "SD x4 upscaler checkpoint"
    assert detected(base | {label: ("F16", [1280, 5632])}).kind == "Kolors checkpoint"
    assert detected(base | video).kind == "Stable Video Diffusion checkpoint"


def test_precision_is_that_of_nearly_all_weights(detected):
    base = published("sdxl_base")
    norm = DENOISER + "out.0.weight"
    assert detected(base | {norm: ("F32", [320])}).precision == "fp16"
    for dtype, name in (("BF16", "bf16"), ("F32", "fp32"), ("F8_E4M3", "fp8"), ("F8_E5M2", "fp8")):
        assert detected({key: (dtype, shape) for key, (_, shape) in base.items()}).precision == name
    half = {key: ("F32" if "output_blocks" in key else dtype, shape) for key, (dtype, shape) in base.items()}
    assert detected(half).precision == "mixed"


def test_scaled_fp8_is_known_and_its_scales_are_no_leftovers(detected):
    tensors = {key: ("F8_E4M3", shape) for key, (_, shape) in published("sd35_medium").items()}
    scale = DENOISER + "joint_blocks.0.x_block.attn.qkv.scale_weight"
    info = detected(tensors | {DENOISER + "scaled_fp8": ("F8_E4M3", [0]), scale: ("F32", [])})
    assert (info.precision, info.denoiser, info.refusal) == ("fp8 scaled", SD35_MEDIUM, "")
    assert not any("belong to no part" in note for note in info.notes)
    assert set(info.sources["denoiser"].numbers) == {"F8_E4M3"}


def test_formats_that_the_header_shows_and_nobody_knows_are_refused_by_name(detected):
    base = published("sd35_medium")
    second = {DENOISER + "final_layer.linear.weight_scale_2": ("F32", [])}
    assert "nvfp4" in detected(base | second).refusal
    told = {"_quantization_metadata": '{"layers": {"model.diffusion_model.final_layer.linear": {"format": "mxfp8"}}}'}
    assert "mxfp8" in detected(base, metadata=told).refusal


def test_nuisance_keys_change_nothing_and_others_are_noted(detected):
    base = published("sdxl_base")
    nuisance = keys(
        "alphas_cumprod", "betas", "sqrt_one_minus_alphas_cumprod", "model_ema.decay", "denoiser.sigmas", shape=(1000,)
    )
    assert detected(base | nuisance).notes == ()
    notes = detected(base | keys("my.strange.tensor")).notes
    assert len(notes) == 1
    assert "my.strange.tensor" in notes[0]


EASEL = {
    "easel.format": "1",
    "easel.unet": json.dumps({"norm_groups": 16, "head_dim": 32}),
    "easel.vae": json.dumps({"norm_groups": 8}),
    "easel.latent": json.dumps({"scale": 0.5, "shift": 0.1, "rgb_factors": [[1, 0, 0]] * 4, "rgb_bias": [0, 0, 0.5]}),
    "easel.clip_l": json.dumps({"bos": 1, "eos": 2, "pad": 2, "heads": 6, "activation": "gelu"}),
    "easel.clip_g": json.dumps({"bos": 3, "eos": 4, "pad": 0}),
    "easel.defaults": json.dumps({"width": 256, "height": 192, "steps": 9, "cfg_scale": 4, "sampler": "lms"}),
    "easel.tokenizer_clip": "{}",
}  # fmt: skip


def test_easel_metadata_overrides_what_shapes_and_constants_say(detected):
    info = detected(published("sdxl_base"), EASEL)
    assert info.denoiser == replace(SDXL_UNET, norm_groups=16, head_dim=32)
    assert info.vae == replace(VAE_4, norm_groups=8)
    assert (info.latent.scale, info.latent.shift, info.latent.rgb_bias) == (0.5, 0.1, (0, 0, 0.5))
    assert info.latent.rgb_factors == ((1, 0, 0),) * 4
    assert info.clip_l == replace(CLIP_L, bos=1, eos=2, pad=2, heads=6, activation="gelu")
    assert info.clip_g == replace(CLIP_G, bos=3, eos=4, pad=0)
    assert (info.defaults.width, info.defaults.height, info.defaults.steps, info.defaults.shift) == (256, 192, 9, None)
    assert (info.tokenizer_clip, info.tokenizer_t5) == ("{}", None)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("easel.vae", "not json"),
        ("easel.vae", "[8]"),
        ("easel.vae", "[" * 100_000),
        ("easel.vae", '{"norm_groups": 0}'),
        ("easel.vae", '{"norm_groups": true}'),
        ("easel.vae", '{"norm_groups": 7}'),
        ("easel.vae", '{"channels": 8}'),
        ("easel.unet", '{"norm_groups": 7}'),
        ("easel.unet", '{"head_dim": null}'),
        ("easel.latent", '{"scale": NaN}'),
        ("easel.latent", '{"scale": 1e999}'),
        ("easel.latent", '{"scale": 0}'),
        ("easel.latent", '{"rgb_factors": [[1, 0, 0]]}'),
        ("easel.latent", '{"rgb_bias": [1, 0]}'),
        ("easel.clip_l", '{"heads": 5}'),
        ("easel.clip_l", '{"eos": 49408}'),
        ("easel.clip_l", '{"activation": "relu"}'),
        ("easel.defaults", '{"steps": 1000000}'),
        ("easel.defaults", '{"sampler": 3}'),
        ("easel.defaults", '{"width": 100000}'),
    ],
)
def test_invalid_easel_metadata_is_corrupt(detected, field, value):
    with pytest.raises(ModelCorrupt):
        detected(published("sdxl_base"), {field: value})


def test_newer_format_is_refused(detected):
    with pytest.raises(ModelUnsupported, match="Update Easel"):
        detected(published("sdxl_base"), {"easel.format": "2"})


@pytest.mark.parametrize(
    "missing",
    [
        DENOISER + "out.2.weight",
        DENOISER + "input_blocks.4.0.in_layers.2.weight",
        "first_stage_model.encoder.conv_in.weight",
        "conditioner.embedders.1.model.positional_embedding",
        "conditioner.embedders.0.transformer.text_model.encoder.layers.0.mlp.fc1.weight",
    ],
)
def test_missing_decisive_tensor_is_named_with_the_file(detected, missing):
    tensors = published("sdxl_base")
    del tensors[missing]
    with pytest.raises(ModelCorrupt) as caught:
        detected(tensors)
    assert ".bin" in caught.value.what


DECISIVE = [
    "model.diffusion_model.input_blocks.0.0.weight",
    "model.diffusion_model.input_blocks.7.0.in_layers.2.weight",
    "model.diffusion_model.input_blocks.4.1.proj_in.weight",
    "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight",
    "model.diffusion_model.label_emb.0.0.weight",
    "model.diffusion_model.out.2.weight",
    "first_stage_model.encoder.conv_in.weight",
    "first_stage_model.encoder.down.1.block.0.conv1.weight",
    "first_stage_model.decoder.conv_in.weight",
    "conditioner.embedders.0.transformer.text_model.embeddings.token_embedding.weight",
    "conditioner.embedders.1.model.text_projection",
    "conditioner.embedders.1.model.transformer.resblocks.0.mlp.c_fc.weight",
]


@pytest.mark.parametrize("wrong", [(), (3,), (1, 1, 1, 1, 1), (7, 7), (7, 7, 3, 3)], ids=str)
def test_misshapen_tensors_are_corrupt_not_a_crash(wrong):
    base = {key: TensorInfo(dtype, tuple(shape)) for key, (dtype, shape) in published("sdxl_base").items()}
    refused = 0
    for key in DECISIVE:
        try:
            detect(Header(Path("x.safetensors"), base | {key: TensorInfo("F16", wrong)}, {}, 1))
        except ModelCorrupt:
            refused += 1
    assert refused >= len(DECISIVE) // 2  # the others only make another network, which the loader then refuses


@pytest.mark.parametrize(
    ("name", "key", "shape"),
    [
        ("sdxl_base", "model.diffusion_model.label_emb.0.0.weight", (1280, 2815)),
        ("sdxl_base", "conditioner.embedders.1.model.text_projection", (1280, 1024)),
    ],
)
def test_text_encoders_that_do_not_fit_the_denoiser_are_refused(detected, name, key, shape):
    tensors = published(name)
    assert key in tensors
    with pytest.raises(ModelCorrupt, match="do not fit"):
        detected({**tensors, key: ("F16", shape)})
