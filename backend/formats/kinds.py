"""What a whole file that is no checkpoint and no VAE of ours looks like, and where it belongs: one row a kind.

The first row that holds speaks, so special kinds stand before general ones. Keys are looked at without the
``model.diffusion_model.`` prefix, too. Sources: FORMATS.md 2.3, 2.4, 4, 5.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from backend.formats.measure import Tensors


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        name: as in "looks like a ...".
        belongs_in: folder under models/; empty: nowhere.
        has: keys; any one of them is enough.
        pattern: searched in every key where ``has`` found nothing; empty: not searched.
        shape: (key, axis, size) that must hold besides.
    """

    name: str
    belongs_in: str
    has: tuple[str, ...] = ()
    pattern: str = ""
    shape: tuple[str, int, int] | None = None

    def holds(self, tensors: Tensors) -> bool:
        """Whether a file with these tensors is of this kind."""
        found = any(key in tensors for key in self.has)
        if not found and self.pattern:
            search = re.compile(self.pattern).search
            found = any(search(key) for key in tensors)
        if not found or self.shape is None:
            return found
        key, axis, size = self.shape
        return key in tensors and len(tensors[key].shape) > axis and tensors[key].shape[axis] == size


_HF_TOKENS = "text_model.embeddings.token_embedding.weight"
_OPEN_CLIP_TOKENS = "token_embedding.weight"

#: Kinds that share keys with checkpoints, looked at before them.
BEFORE_CHECKPOINTS: Sequence[Kind] = (
    Kind("control-LoRA", "controlnet", has=("lora_controlnet",)),
    Kind("ControlNet Union", "controlnet", has=("task_embedding", "control_model.task_embedding")),
    Kind("ControlNet for SD3.5 (Stability's)", "controlnet", has=("controlnet_blocks.0.weight",)),
    Kind("ControlNet for SD3 (diffusers naming)", "controlnet", has=("pos_embed_input.proj.weight",)),
    Kind("ControlNet for SDXL (diffusers naming)", "controlnet", has=("controlnet_mid_block.weight",),
         shape=("add_embedding.linear_1.weight", 1, 2816)),
    Kind("ControlNet (diffusers naming)", "controlnet",
         has=("controlnet_mid_block.weight", "controlnet_cond_embedding.conv_in.weight")),
    Kind("ControlNet", "controlnet",
         has=("input_hint_block.0.weight", "control_model.input_hint_block.0.weight", "zero_convs.0.0.weight")),
)  # fmt: skip

OTHER_KINDS: Sequence[Kind] = (
    Kind("ControlNet-LLLite", "controlnet", pattern=r"^lllite_unet_"),
    Kind("IP-Adapter", "controlnet", has=("image_proj.proj.weight", "image_proj.latents"), pattern=r"^ip_adapter\."),
    Kind("T2I-Adapter", "controlnet",
         has=("body.0.in_conv.weight", "adapter.body.0.resnets.0.block1.weight", "body.0.block1.weight")),
    Kind("LoRA", "loras",
         pattern=r"^(lora_|lycoris_)|\.lora_(A|B|down|up|mid)\.|_lora\.(down|up)\.|\.lora\.(down|up)\.|\.lora_linear_layer\."
                 r"|\.(hada_[wt][12]|lokr_[wt][12]|oft_blocks|oft_diag|dora_scale)|\.(diff|diff_b|w_norm)$"),
    Kind("FLUX checkpoint", "",
         has=("double_blocks.0.img_attn.qkv.weight", "single_transformer_blocks.0.attn.to_q.weight")),
    Kind("AuraFlow checkpoint", "", has=("double_layers.0.attn.w1q.weight",)),
    Kind("Stable Cascade checkpoint", "", has=("clip_txt_mapper.weight", "clip_txt_pooled_mapper.weight"),
         pattern=r"^(down_blocks|up_blocks)\.\d+\.\d+\.(channelwise|depthwise)\."),
    Kind("PixArt checkpoint", "", has=("adaln_single.linear.weight", "t_block.1.weight")),
    Kind("Hunyuan-DiT checkpoint", "", has=("mlp_t5.0.weight",)),
    Kind("Lumina or Z-Image checkpoint", "", has=("noise_refiner.0.attention.qkv.weight",)),
    Kind("Qwen-Image checkpoint", "", has=("transformer_blocks.0.img_mlp.net.0.proj.weight",)),
    Kind("Wan video checkpoint", "", has=("blocks.0.self_attn.norm_q.weight",)),
    Kind("SD3 transformer in diffusers naming", "checkpoints", has=("transformer_blocks.0.attn.add_q_proj.weight",)),
    Kind("U-Net in diffusers naming", "checkpoints",
         has=("down_blocks.0.resnets.0.conv1.weight", "down_blocks.0.resnets.0.norm1.weight")),
    Kind("CLIP vision encoder", "controlnet",
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
         has=("model.layers.0.self_attn.q_proj.weight", "layers.0.self_attn.q_proj.weight")),
    Kind("VAE in diffusers naming", "vae",
         has=("decoder.mid_block.attentions.0.to_q.weight", "decoder.mid_block.attentions.0.query.weight",
              "decoder.mid_block.resnets.0.conv1.weight")),
    Kind("tiny preview autoencoder (TAESD)", "previews",
         has=("taesd_decoder.1.weight", "decoder.layers.3.conv.0.weight", "3.conv.0.weight")),
    Kind("upscaler", "upscalers",
         has=("model.1.sub.0.RDB1.conv1.0.weight", "RRDB_trunk.0.RDB1.conv1.weight", "body.0.rdb1.conv1.weight",
              "layers.0.residual_group.blocks.0.norm1.weight", "layers.0.blocks.0.norm1.weight",
              "layers.0.residual_group.blocks.0.attn.relative_position_bias_table", "upsampler.0.weight")),
)  # fmt: skip


def first_kind(kinds: Sequence[Kind], tensors: Tensors) -> Kind | None:
    """The first kind that holds."""
    return next((kind for kind in kinds if kind.holds(tensors)), None)
