"""What is no checkpoint of ours is named, with the family it was made for, and sent to its folder."""

from __future__ import annotations

import pytest

from backend.formats.adapters import AdapterInfo
from backend.formats.configs import OtherFile
from backend.formats.control_configs import ControlInfo
from backend.formats.kinds import Keys, family_of, first_kind
from backend.formats.other_kinds import BEFORE_CHECKPOINTS, OTHER_KINDS
from backend.formats.reader import TensorInfo
from tests.formats.files import Tensors, keys, published

DENOISER = "model.diffusion_model."


def lora(layer: str, wide: int, *, down: str = ".lora_down.weight") -> Tensors:
    """The half of a LoRA that reads ``wide`` numbers."""
    return keys(layer + down, shape=(16, wide))


def sized(**shapes: tuple[int, ...]) -> Tensors:
    return {key.replace("__", "."): ("F16", list(shape)) for key, shape in shapes.items()}


KOHYA_XL = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k"
KOHYA_1 = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"
PEFT_UNET = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
PEFT_SD3 = "transformer.transformer_blocks.0.attn.to_q"
CLIP_Q = "text_model_encoder_layers_0_self_attn_q_proj"

LORAS: list[tuple[Tensors, str]] = [
    # kohya
    (lora(KOHYA_XL, 2048) | keys(KOHYA_XL + ".alpha", shape=()), "SDXL"),
    (lora("lora_unet_input_blocks_7_1_transformer_blocks_9_attn1_to_q", 1280), "SDXL"),
    (lora(KOHYA_XL, 2048, down=".hada_w1_b") | keys(KOHYA_XL + ".hada_w1_a"), "SDXL"),
    (lora(KOHYA_1, 768), "SD1.5"),
    (lora(KOHYA_1, 1024), "SD2"),
    (lora("lora_te_" + CLIP_Q, 768), "SD1.5"),
    (lora("lora_te_" + CLIP_Q, 1024), "SD2"),
    (lora("lora_te2_" + CLIP_Q, 1280), "SDXL or SD3"),
    (lora("lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q", 320), "SD1.5 or SD2"),
    (lora("lora_unet_joint_blocks_0_x_block_attn_qkv", 1536), "SD3 or SD3.5"),
    (lora("lora_unet_joint_blocks_0_x_block_attn_qkv", 2432), "SD3.5 Large"),
    (lora("lora_unet_joint_blocks_0_x_block_attn2_qkv", 1536), "SD3.5 Medium"),
    # diffusers and PEFT
    (lora(PEFT_UNET, 2048, down=".lora_A.weight"), "SDXL"),
    (lora(PEFT_UNET, 2048, down=".lora_A.default.weight"), "SDXL"),
    (lora("base_model.model." + PEFT_UNET.removeprefix("unet."), 768, down=".lora_A.weight"), "SD1.5"),
    (lora(PEFT_UNET, 2048, down=".lora.down.weight"), "SDXL"),
    (lora("unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.processor.to_k", 768, down="_lora.down.weight"),
     "SD1.5"),
    (lora("text_encoder.text_model.encoder.layers.0.self_attn.q_proj", 768, down=".lora_linear_layer.down.weight"),
     "SD1.5"),
    (lora("text_encoder_2.text_model.encoder.layers.0.self_attn.q_proj", 1280, down=".lora_A.weight"), "SDXL or SD3"),
    (lora(PEFT_SD3, 1536, down=".lora_A.weight"), "SD3 or SD3.5"),
    (lora(PEFT_SD3, 2432, down=".lora_A.weight"), "SD3.5 Large"),
    (lora("base_model.model.transformer_blocks.0.attn.add_k_proj", 2432, down=".lora_A.weight"), "SD3.5 Large"),
    (lora("transformer.transformer_blocks.0.attn2.to_q", 1536, down=".lora_A.weight"), "SD3.5 Medium"),
    # others
    (lora("lora_transformer_transformer_blocks_0_attn_to_q", 1536), "SD3 or SD3.5"),
    (keys("lycoris_transformer_blocks_0_attn_to_q.lokr_w1"), "SD3 or SD3.5"),
    (lora("diffusion_model.joint_blocks.0.x_block.attn.qkv", 2432, down=".lora_A.weight"), "SD3.5 Large"),
    (lora("diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k", 2048), "SDXL"),
    (lora("lora_unet_double_blocks_0_img_attn_qkv", 3072), "FLUX or Hunyuan video"),
    (lora("transformer.single_transformer_blocks.0.attn.to_q", 3072, down=".lora_A.weight"), "FLUX or Hunyuan video"),
    (lora("transformer.transformer_blocks.0.attn.to_q", 3072, down=".lora_A.weight"), "FLUX or Qwen-Image"),
    (lora("diffusion_model.blocks.0.cross_attn.k", 5120, down=".lora_A.weight"), "Wan video"),
    # algorithms
    *((keys(f"x.{name}"), "") for name in (
        "hada_w1_a", "hada_t1", "lokr_w2", "lokr_w1_a", "oft_blocks", "oft_diag", "dora_scale", "diff", "diff_b",
        "set_weight", "w_norm", "b_norm", "on_input", "a1.weight", "lora_mid.weight", "lora_magnitude_vector",
    )),
    (keys("bundle_emb.word.clip_l", "lora_unet_x.alpha"), ""),
]  # fmt: skip


@pytest.mark.parametrize(("tensors", "family"), LORAS, ids=[f"{i}-{next(iter(row[0]))}" for i, row in enumerate(LORAS)])
def test_adapters_of_every_naming_are_known_with_their_family(detected, tensors, family):
    info = detected(tensors)
    if isinstance(info, AdapterInfo):
        assert info.made_for == family
        assert info.kinds
    else:
        assert isinstance(info, OtherFile)
        assert family.startswith(("FLUX", "Wan", "Qwen"))
        assert (info.kind, info.belongs_in, info.family) == ("LoRA", "loras", family)
        assert f"a LoRA for {family}" in info.sentence


CONTEXT = "input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight"
DIFFUSERS_CONTEXT = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.weight"
HINT = keys("input_hint_block.0.weight", "zero_convs.0.0.weight", "middle_block_out.0.weight")
COND = keys("controlnet_cond_embedding.conv_in.weight", "controlnet_mid_block.weight")
SD3_CONTROL = keys("transformer_blocks.0.attn.add_k_proj.weight", "context_embedder.weight")

GUIDES: list[tuple[Tensors, str, str]] = [
    (published("sdxl_controlnet_diffusers"), "ControlNet (diffusers naming)", "SDXL"),
    (COND | keys(DIFFUSERS_CONTEXT, shape=(640, 768)), "ControlNet (diffusers naming)", "SD1.5"),
    (COND | keys(DIFFUSERS_CONTEXT, shape=(640, 1024)), "ControlNet (diffusers naming)", "SD2"),
    (COND, "ControlNet (diffusers naming)", ""),
    (HINT | keys(CONTEXT, shape=(640, 768)), "ControlNet", "SD1.5"),
    ({"control_model." + key: value for key, value in (HINT | keys(CONTEXT, shape=(640, 1024))).items()},
     "ControlNet", "SD2"),
    (HINT | keys("label_emb.0.0.weight", shape=(1280, 2816)), "ControlNet", "SDXL"),
    (HINT | keys("difference", shape=()), "ControlNet", ""),
    (keys("task_embedding", shape=(6, 320)) | COND | keys(DIFFUSERS_CONTEXT, shape=(640, 2048)),
     "ControlNet Union", "SDXL"),
    (keys("task_embedding", shape=(8, 320)) | COND | keys(DIFFUSERS_CONTEXT, shape=(640, 2048)),
     "ControlNet Union ProMax", "SDXL"),
    ({"lora_controlnet": ("F16", [0])} | keys("input_hint_block.0.weight")
     | keys("input_blocks.4.1.transformer_blocks.0.attn2.to_k.down", shape=(128, 2048)), "control-LoRA", "SDXL"),
    (keys("lllite_unet_input_blocks_4_1.conditioning1.0.weight"), "ControlNet-LLLite", "SDXL"),
    (sized(conv_in__weight=(320, 768, 3, 3), body__0__block1__weight=(320, 320, 3, 3)), "T2I-Adapter", "SDXL"),
    (sized(conv_in__weight=(320, 192, 3, 3), body__0__block1__weight=(320, 320, 3, 3)), "T2I-Adapter", "SD1.5"),
    (sized(body__0__in_conv__weight=(80, 64, 1, 1)), "T2I-Adapter", "SD1.5"),
    (sized(adapter__conv_in__weight=(320, 256, 3, 3), adapter__body__0__resnets__0__block1__weight=(8, 8, 3, 3)),
     "T2I-Adapter", "SDXL"),
    (keys("image_proj.proj.weight", "ip_adapter.1.to_k_ip.weight", shape=(640, 768)), "IP-Adapter", "SD1.5"),
    (keys("image_proj.latents", "ip_adapter.1.to_k_ip.weight", shape=(640, 2048)), "IP-Adapter Plus", "SDXL"),
    (keys("image_proj.latents", "ip_adapter.0.to_k_ip.weight", shape=(2432, 2432)), "IP-Adapter Plus", "SD3.5 Large"),
    (keys("image_proj.proj.3.weight", "ip_adapter.1.to_k_ip.weight", shape=(320, 768)), "IP-Adapter", "SD1.5"),
    (keys("ip_adapter.0.to_q_lora.down.weight", "ip_adapter.1.to_k_ip.weight", shape=(640, 768)),
     "IP-Adapter FaceID", "SD1.5"),
    (SD3_CONTROL | sized(pos_embed_input__proj__weight=(1536, 16, 2, 2), controlnet_blocks__0__weight=(1536, 1536)),
     "ControlNet (diffusers naming)", "SD3 or SD3.5 Medium"),
    (SD3_CONTROL | sized(pos_embed_input__proj__weight=(1536, 17, 2, 2), controlnet_blocks__0__weight=(1536, 1536)),
     "inpainting ControlNet (diffusers naming)", "SD3 or SD3.5 Medium"),
    (published("sd35_large_controlnet_canny"), "ControlNet (Stability's)", "SD3.5 Large"),
    (keys("controlnet_x_embedder.weight", "controlnet_blocks.0.weight"), "ControlNet (diffusers naming)", "FLUX"),
]  # fmt: skip


@pytest.mark.parametrize(("tensors", "kind", "family"), GUIDES, ids=[f"{i}-{row[1]}" for i, row in enumerate(GUIDES)])
def test_guidance_networks_are_known_with_their_family(tensors, kind, family):
    found = Keys({key: TensorInfo(dtype, tuple(shape)) for key, (dtype, shape) in tensors.items()})
    row = first_kind((*BEFORE_CHECKPOINTS, *OTHER_KINDS), found)
    assert row is not None
    assert (row.name, family_of(row, found)) == (kind, family)
    assert row.belongs_in == ("ip_adapter" if kind.startswith("IP-Adapter") else "controlnet")


@pytest.mark.parametrize(
    ("name", "kind", "family"),
    [
        ("sdxl_controlnet_diffusers", "ControlNet", "sdxl"),
        ("sd35_large_controlnet_canny", "ControlNet for SD3.5", "sd3"),
    ],
)
def test_published_guidance_networks_are_ready_to_run(detected, name, kind, family):
    info = detected(published(name))
    assert isinstance(info, ControlInfo)
    assert (info.kind, info.family) == (kind, family)


OTHERS: list[tuple[Tensors, str, str]] = [
    *((keys(prefix + key), kind, "") for key, kind in {
        "double_blocks.0.img_attn.qkv.weight": "FLUX checkpoint",
        "distilled_guidance_layer.0.norms.0.scale": "Chroma checkpoint",
        "clip_txt_mapper.weight": "Stable Cascade checkpoint",
        "clf.1.weight": "Stable Cascade checkpoint",
        "double_layers.0.attn.w1q.weight": "AuraFlow checkpoint",
        "mlp_t5.0.weight": "Hunyuan-DiT checkpoint",
        "txt_in.individual_token_refiner.blocks.0.norm1.weight": "Hunyuan video checkpoint",
        "t5_yproj.weight": "Mochi video checkpoint",
        "t_block.1.weight": "PixArt checkpoint",
        "cap_embedder.1.weight": "Lumina or Z-Image checkpoint",
        "caption_projection.0.linear.weight": "HiDream checkpoint",
        "txt_norm.weight": "Qwen-Image checkpoint",
        "blocks.0.self_attn.norm_q.weight": "Wan video checkpoint",
    }.items() for prefix in ("", DENOISER)),
    (keys("transformer_blocks.0.scale_shift_table") | sized(patchify_proj__weight=(2048, 128)),
     "LTX video checkpoint", ""),
    (keys("down_blocks.0.motion_modules.0.temporal_transformer.norm.weight"), "AnimateDiff motion module", ""),
    (keys("down_blocks.0.resnets.0.conv1.weight", "conv_in.weight"), "U-Net in diffusers naming", "checkpoints"),
    (keys("transformer_blocks.0.attn.add_q_proj.weight"), "SD3 transformer in diffusers naming", "checkpoints"),
    (keys("decoder.mid_block.attentions.0.to_q.weight"), "VAE in diffusers naming", "vae"),
    (keys("decoder.middle.0.residual.0.gamma", "conv1.weight"), "video VAE", ""),
    (keys("taesd_decoder.1.weight"), "tiny preview autoencoder (TAESD)", "previews"),
    (keys("decoder.layers.3.conv.0.weight", "encoder.layers.0.weight"), "tiny preview autoencoder (TAESD)", "previews"),
    (keys("1.weight", "3.conv.0.weight"), "tiny preview autoencoder (TAESD)", "previews"),
    (keys("model.0.weight", "model.1.sub.0.RDB1.conv1.0.weight"), "upscaler", "upscalers"),
    (keys("conv_first.weight", "body.0.rdb1.conv1.weight"), "upscaler", "upscalers"),
    (keys("conv_first.weight", "layers.0.residual_group.blocks.0.norm1.weight"), "upscaler", "upscalers"),
    (keys("body.0.weight", shape=(64, 3, 3, 3)), "upscaler", "upscalers"),
    (keys("stylegan_decoder.constant_input.weight"), "face restorer", ""),
    (keys("pretrained.blocks.0.attn.qkv.weight"), "depth estimator", ""),
    (keys("vision_model.embeddings.patch_embedding.weight"), "CLIP vision encoder", "clip_vision"),
    (keys("model.layers.0.self_attn.q_proj.weight"), "language model", "text_encoders"),
    (keys("blk.0.attn_q.weight", "token_embd.weight"), "language model", "text_encoders"),
    (keys("model_ema.diffusion_modelinput_blocks00weight"), "EMA weights without the model", ""),
    (keys("something.weight", "else.bias"), "unknown", ""),
]  # fmt: skip


@pytest.mark.parametrize(("tensors", "kind", "folder"), OTHERS, ids=[f"{i}-{row[1]}" for i, row in enumerate(OTHERS)])
def test_other_kinds_of_files_are_named_and_sent_to_their_folder(detected, tensors, kind, folder):
    info = detected(tensors)
    assert isinstance(info, OtherFile)
    assert (info.kind, info.belongs_in) == (kind, folder)
    assert 10 <= len(info.sentence) <= 400


@pytest.mark.parametrize(("channels", "family"), [(4, "SD1.5 or SDXL"), (16, "SD3.5 or FLUX")])
def test_preview_decoders_are_told_apart_by_their_latent(detected, channels, family):
    for first, third in (("taesd_decoder.1", "taesd_decoder.3.conv.0"), ("1", "3.conv.0"),
                         ("decoder.layers.0", "decoder.layers.3.conv.0")):  # fmt: skip
        tensors = keys(f"{first}.weight", shape=(64, channels, 3, 3)) | keys(f"{third}.weight")
        assert detected(tensors).family == family


def test_keys_are_searched_one_by_one():
    tensors = {name: TensorInfo("F16", (2, 3)) for name in ("a.b", "b.a", "c", "ab")}
    found = Keys(tensors)
    assert list(found.matching("a")) == ["a.b", "b.a", "ab"]
    assert list(found.matching("a$")) == ["b.a"]
    assert list(found.matching("^b|c")) == ["b.a", "c"]
    assert list(found.matching("")) == list(tensors)
    assert list(found.matching("a.*c")) == []  # never across keys
    assert (found.size("c", -1), found.size("c", 2), found.size("d", 0)) == (3, None, None)
