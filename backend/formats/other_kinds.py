"""What else people have in their model folders: one row a kind, with the folder where it belongs.

Keys are looked at without the ``model.diffusion_model.`` prefix, too. Sources: FORMATS.md 2.3, 2.4, 4, 5; ComfyUI
``model_detection.py`` for the families that are not run; spandrel's architectures for the upscalers.
"""

from __future__ import annotations

from collections.abc import Sequence

from backend.formats.kinds import Kind, MadeFor, SaidFor

T2I_ADAPTER = "T2I-Adapter"
_HF_TOKENS = "text_model.embeddings.token_embedding.weight"
_OPEN_CLIP_TOKENS = "token_embedding.weight"

#: The width of a U-Net's context, which second attentions read.
_BY_CONTEXT = tuple(
    MadeFor(family, r"attn2\.to_k\.(weight|down)$", -1, (width,))
    for family, width in (("SDXL", 2048), ("SD1.5", 768), ("SD2", 1024))
)

_IP_FOR = (MadeFor("SDXL", r"to_k_ip\.weight$", -1, (2048,)), MadeFor("SD1.5", r"to_k_ip\.weight$", -1, (768,)),
           MadeFor("SD3.5 Large", r"to_k_ip\.weight$", -1, (2432,)))  # fmt: skip
_TINY_IN = r"^(taesd_decoder\.1|decoder\.layers\.0|1)\.weight$"  # takes the latent
_SD35_BLOCK = r"^controlnet_blocks\.0\.weight$"
_SD3_FOR = (
    MadeFor("SD3 or SD3.5 Medium", _SD35_BLOCK, 0, (1536,)),
    MadeFor("SD3.5 Large", _SD35_BLOCK, 0, (2432,)),
    MadeFor("SD3 or SD3.5", ""),
)

_LORA_IN = r"[._]?(lora[._](down|A|linear_layer\.down)|down|hada_w[12]_b)\b"  # shape [rank, what the layer takes]
_UNET_PLACE = r"(input_blocks|output_blocks|middle_block|down_blocks|up_blocks|mid_block)[._]"
_SPLIT_QKV = rf"transformer_blocks[._]\d+[._]attn[._](add_)?(to_)?[qkv](_proj)?{_LORA_IN}"
_LORA_FOR = (
    MadeFor("FLUX or Hunyuan video", r"(double|single)_blocks[._]\d|single_transformer_blocks[._]\d"),
    MadeFor("Wan video", r"blocks[._]\d+[._](self_attn|cross_attn)[._]"),
    MadeFor("Qwen-Image", r"transformer_blocks[._]\d+[._](img|txt)_mlp"),
    MadeFor("SD3.5 Large", rf"joint_blocks[._]\d+[._]x_block[._]attn[._]qkv{_LORA_IN}", -1, (2432,)),
    MadeFor("SD3.5 Large", _SPLIT_QKV, -1, (2432,)),
    MadeFor("FLUX or Qwen-Image", _SPLIT_QKV, -1, (3072,)),
    MadeFor("SD3.5 Medium", r"(x_block|(transformer[._]|lycoris_|^)transformer_blocks[._]\d+)[._]attn2[._]"),
    MadeFor("SD3 or SD3.5",
            r"joint_blocks[._]\d|(^|transformer[._]|lycoris_|model\.)transformer_blocks[._]\d+[._]attn[._]"),
    MadeFor("SDXL", rf"attn2[._]to_[kv]{_LORA_IN}", -1, (2048,)),
    MadeFor("SD1.5", rf"attn2[._](processor\.)?to_[kv](_lora)?{_LORA_IN}", -1, (768,)),
    MadeFor("SD2", rf"attn2[._](processor\.)?to_[kv](_lora)?{_LORA_IN}", -1, (1024,)),
    MadeFor("SDXL", rf"{_UNET_PLACE}.*transformer_blocks[._]([2-9]|1\d)[._]"),
    MadeFor("SDXL or SD3", r"lora_te2_|^text_encoder_2\."),
    MadeFor("SD1.5", rf"^(lora_te|text_encoder)[._].*q_proj(_lora)?{_LORA_IN}", -1, (768,)),
    MadeFor("SD2", rf"^(lora_te|text_encoder)[._].*q_proj(_lora)?{_LORA_IN}", -1, (1024,)),
    MadeFor("SD1.5 or SD2", r"down_blocks[._]0[._]attentions|up_blocks[._]3[._]|input_blocks[._][12][._]1[._]"),
)  # fmt: skip

#: ModelSpec's and kohya's words for the base model; shapes, where they tell, come before them.
SAID_FOR: Sequence[SaidFor] = tuple(
    SaidFor(family, field, begins)
    for family, architecture, base in (
        ("SDXL", "stable-diffusion-xl-v1", "sdxl"),
        ("SD3 or SD3.5", "stable-diffusion-v3", "sd3"),
        ("SD2", "stable-diffusion-v2", "sd_v2"),
        ("SD1.5", "stable-diffusion-v1", "sd_v1"),
    )
    for field, begins in (("modelspec.architecture", architecture), ("ss_base_model_version", base))
)

#: Kinds that share keys with checkpoints, looked at before them.
BEFORE_CHECKPOINTS: Sequence[Kind] = (
    Kind("control-LoRA", "controlnet", has=("lora_controlnet",), made_for=_BY_CONTEXT),
    Kind("ControlNet Union ProMax", "controlnet", has=("task_embedding",), shape=("task_embedding", 0, 8),
         made_for=_BY_CONTEXT),
    Kind("ControlNet Union", "controlnet", has=("task_embedding", "control_model.task_embedding"),
         made_for=_BY_CONTEXT),
    Kind("ControlNet (diffusers naming)", "controlnet", has=("controlnet_x_embedder.weight",),
         made_for=(MadeFor("FLUX", ""),)),
    Kind("inpainting ControlNet (diffusers naming)", "controlnet", has=("pos_embed_input.proj.weight",),
         shape=("pos_embed_input.proj.weight", 1, 17), made_for=_SD3_FOR),
    Kind("ControlNet (diffusers naming)", "controlnet", has=("transformer_blocks.0.attn.add_k_proj.weight",),
         shape=("pos_embed_input.proj.weight", 1, 16), made_for=_SD3_FOR),
    Kind("ControlNet (Stability's)", "controlnet", has=("controlnet_blocks.0.weight",), made_for=_SD3_FOR),
    Kind("ControlNet (diffusers naming)", "controlnet",
         has=("controlnet_mid_block.weight", "controlnet_cond_embedding.conv_in.weight"),
         made_for=(MadeFor("SDXL", r"^add_embedding\.linear_1\.weight$", 1, (2816,)), *_BY_CONTEXT)),
    Kind("ControlNet", "controlnet",
         has=("input_hint_block.0.weight", "control_model.input_hint_block.0.weight", "zero_convs.0.0.weight",
              "control_model.zero_convs.0.0.weight"),
         made_for=(MadeFor("SDXL", r"label_emb\.0\.0\.weight$", 1, (2816,)), *_BY_CONTEXT)),
)  # fmt: skip

OTHER_KINDS: Sequence[Kind] = (
    Kind("ControlNet-LLLite", "controlnet", pattern=r"^lllite_unet_", made_for=(MadeFor("SDXL", ""),)),
    Kind("IP-Adapter FaceID", "ip_adapter", has=("ip_adapter.0.to_q_lora.down.weight",),
         made_for=_IP_FOR),
    Kind("IP-Adapter Plus", "ip_adapter", has=("image_proj.latents",),
         made_for=_IP_FOR),
    Kind("IP-Adapter", "ip_adapter", has=("image_proj.proj.weight", "image_proj.proj.3.weight"),
         pattern=r"^ip_adapter\.", made_for=_IP_FOR),
    Kind(T2I_ADAPTER, "controlnet",
         has=("body.0.in_conv.weight", "adapter.body.0.resnets.0.block1.weight", "body.0.block1.weight"),
         # pictures come as 8x8 or 16x16 pixels to a place, of one or three colours
         made_for=(MadeFor("SDXL", r"(^|adapter\.)(conv_in|body\.0\.in_conv)\.weight$", 1, (256, 768)),
                   MadeFor("SD1.5", r"(^|adapter\.)(conv_in|body\.0\.in_conv)\.weight$", 1, (64, 192)))),
    Kind("LoRA", "loras",
         pattern=r"^(lora_|lycoris_|bundle_emb\.)|[._]lora_(A|B|down|up|mid)\.|_lora\.(down|up)\.|\.lora\.(down|up)\."
                 r"|\.lora_linear_layer\.|\.lora_magnitude_vector"
                 r"|\.(hada_[wt][12]|lokr_[wt][12]|oft_blocks|oft_diag|oft_R|dora_scale|on_input$|a1\.weight$|b1\.weight$)"
                 r"|\.(diff|diff_b|set_weight|w_norm|b_norm)$",
         made_for=_LORA_FOR),
    Kind("Hunyuan video checkpoint", "", has=("txt_in.individual_token_refiner.blocks.0.norm1.weight",)),
    Kind("Chroma checkpoint", "", has=("distilled_guidance_layer.0.norms.0.scale",
                                       "distilled_guidance_layer.norms.0.scale")),
    Kind("FLUX checkpoint", "",
         has=("double_blocks.0.img_attn.qkv.weight", "single_transformer_blocks.0.attn.to_q.weight")),
    Kind("AuraFlow checkpoint", "", has=("double_layers.0.attn.w1q.weight",)),
    Kind("Stable Cascade checkpoint", "",
         has=("clip_txt_mapper.weight", "clip_txt_pooled_mapper.weight", "clf.1.weight"),
         pattern=r"^(down_blocks|up_blocks)\.\d+\.\d+\.(channelwise|depthwise)\."),
    Kind("Hunyuan-DiT checkpoint", "", has=("mlp_t5.0.weight",)),
    Kind("Mochi video checkpoint", "", has=("t5_yproj.weight",)),
    Kind("LTX video checkpoint", "", has=("transformer_blocks.0.scale_shift_table",),
         shape=("patchify_proj.weight", 1, 128)),
    Kind("PixArt checkpoint", "", has=("adaln_single.linear.weight", "t_block.1.weight")),
    Kind("Cosmos video checkpoint", "", has=("blocks.block0.blocks.0.block.attn.to_q.0.weight",)),
    Kind("Lumina or Z-Image checkpoint", "",
         has=("noise_refiner.0.attention.qkv.weight", "cap_embedder.1.weight")),
    Kind("HiDream checkpoint", "", has=("caption_projection.0.linear.weight",)),
    Kind("Qwen-Image checkpoint", "", has=("transformer_blocks.0.img_mlp.net.0.proj.weight", "txt_norm.weight")),
    Kind("Wan video checkpoint", "", has=("blocks.0.self_attn.norm_q.weight", "head.modulation")),
    Kind("CogVideoX checkpoint", "", has=("transformer_blocks.0.norm1.norm.weight",),
         shape=("patch_embed.text_proj.weight", 1, 4096)),
    Kind("Stable Audio checkpoint", "", pattern=r"^(model\.model\.)?transformer\.rotary_pos_emb\.inv_freq$"),
    Kind("SD3 transformer in diffusers naming", "checkpoints", has=("transformer_blocks.0.attn.add_q_proj.weight",)),
    Kind("U-Net in diffusers naming", "checkpoints",
         has=("down_blocks.0.resnets.0.conv1.weight", "down_blocks.0.resnets.0.norm1.weight")),
    Kind("AnimateDiff motion module", "", pattern=r"\.motion_modules\.\d"),
    Kind("CLIP vision encoder", "clip_vision",
         has=("vision_model.embeddings.patch_embedding.weight", "visual.proj",
              "visual.transformer.resblocks.0.ln_1.weight")),
    Kind("CLIP-L text encoder", "text_encoders", has=(_HF_TOKENS,), shape=(_HF_TOKENS, 1, 768)),
    Kind("CLIP-H text encoder", "text_encoders", has=(_HF_TOKENS,), shape=(_HF_TOKENS, 1, 1024)),
    Kind("CLIP-G text encoder", "text_encoders", has=(_HF_TOKENS,), shape=(_HF_TOKENS, 1, 1280)),
    Kind("CLIP-L text encoder (open_clip naming)", "text_encoders", has=("transformer.resblocks.0.ln_1.weight",),
         shape=(_OPEN_CLIP_TOKENS, 1, 768)),
    Kind("CLIP-G text encoder (open_clip naming)", "text_encoders", has=("transformer.resblocks.0.ln_1.weight",),
         shape=(_OPEN_CLIP_TOKENS, 1, 1280)),
    Kind("CLIP text encoder", "text_encoders", has=(_HF_TOKENS, "transformer.resblocks.0.ln_1.weight")),
    Kind("T5-XXL text encoder", "text_encoders", has=("encoder.block.0.layer.0.SelfAttention.q.weight",),
         shape=("shared.weight", 1, 4096)),
    Kind("T5 text encoder", "text_encoders", has=("encoder.block.0.layer.0.SelfAttention.q.weight",)),
    Kind("language model", "text_encoders",
         has=("model.layers.0.self_attn.q_proj.weight", "layers.0.self_attn.q_proj.weight", "blk.0.attn_q.weight",
              "blk.0.attn_qkv.weight", "language_model.model.layers.0.self_attn.q_proj.weight")),
    Kind("VAE in diffusers naming", "vae",
         has=("decoder.mid_block.attentions.0.to_q.weight", "decoder.mid_block.attentions.0.query.weight",
              "decoder.mid_block.resnets.0.conv1.weight")),
    Kind("video VAE", "",
         has=("decoder.middle.0.residual.0.gamma", "decoder.conv_in.conv.weight", "encoder.conv_in.conv.weight",
              "decoder.mid_block.resnets.0.conv1.conv.weight", "decoder.up_blocks.0.res_blocks.0.conv1.conv.weight")),
    Kind("tiny preview autoencoder (TAESD)", "previews",
         has=("taesd_decoder.1.weight", "decoder.layers.3.conv.0.weight", "3.conv.0.weight"),
         made_for=(MadeFor("SD1.5 or SDXL", _TINY_IN, 1, (4,)), MadeFor("SD3.5 or FLUX", _TINY_IN, 1, (16,)))),
    Kind("upscaler", "upscalers",
         has=("model.1.sub.0.RDB1.conv1.0.weight", "RRDB_trunk.0.RDB1.conv1.weight", "body.0.rdb1.conv1.weight",
              "layers.0.residual_group.blocks.0.norm1.weight", "layers.0.blocks.0.norm1.weight",
              "layers.0.residual_group.blocks.0.attn.relative_position_bias_table", "upsampler.0.weight")),
    Kind("upscaler", "upscalers", has=("body.0.weight",), shape=("body.0.weight", 1, 3)),  # RealESRGAN's compact ones
    Kind("face restorer", "", pattern=r"^(params_ema\.)?(stylegan_decoder\.|quantize\.embedding\.)"),
    Kind("depth estimator", "",
         has=("pretrained.blocks.0.attn.qkv.weight", "pretrained.model.blocks.0.attn.qkv.weight")),
    Kind("EMA weights without the model", "", pattern=r"^model_ema\.diffusion_model"),
)  # fmt: skip
