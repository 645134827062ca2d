"""Every published naming resolves to the exact parameter, and to the exact rows of it."""

from __future__ import annotations

import pytest
import torch

from backend.adapters.formats import parse_adapter
from backend.adapters.places import Place, Places
from backend.adapters.roles import Named, named
from tests.adapters.making import in_peft_naming, lora, sd35_places, sdxl_places, tiny_places

_ATTENTION = "input_blocks.4.1.transformer_blocks.0.attn1.to_q"  # in the naming of the checkpoint
_THEIRS = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"  # in diffusers'
_CLIP = "text_model.encoder.layers.1.self_attn.k_proj"


def place(part: str, layer: str, rows: tuple[int, int] | None = None, swapped: bool = False) -> Place:
    return Place(part, layer, rows, swapped)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("key", "stem", "role"),
    [
        ("lora_unet_x_to_q.lora_down.weight", "lora_unet_x_to_q", "down"),
        ("lora_unet_x_to_q.alpha", "lora_unet_x_to_q", "alpha"),
        ("unet.a.attn1.to_q.lora_A.weight", "unet.a.attn1.to_q", "down"),
        ("base_model.model.a.to_q.lora_B.default.weight", "base_model.model.a.to_q", "up"),
        ("unet.a.attn1.to_q.lora.up.weight", "unet.a.attn1.to_q", "up"),
        ("unet.a.attn1.processor.to_q_lora.down.weight", "unet.a.attn1.to_q", "down"),
        ("unet.a.attn1.processor.to_out_lora.up.weight", "unet.a.attn1.to_out.0", "up"),
        ("transformer.b.attn.processor.add_k_proj_lora.up.weight", "transformer.b.attn.add_k_proj", "up"),
        ("text_encoder.l.self_attn.to_out_lora.up.weight", "text_encoder.l.self_attn.out_proj", "up"),
        ("text_encoder.l.q_proj.lora_linear_layer.up.weight", "text_encoder.l.q_proj", "up"),
        ("unet.a.to_q.lora_magnitude_vector", "unet.a.to_q", "magnitude"),
        ("unet.a.to_q.lora_magnitude_vector.default.weight", "unet.a.to_q", "magnitude"),
        ("a.hada_w1_a", "a", "hada_w1_a"),
        ("a.lokr_t2", "a", "lokr_t2"),
        ("a.lokr_w2_b.default", "a", "lokr_w2_b"),
        ("a.diff_b", "a", "diff_b"),
        ("a.w_norm", "a", "w_norm"),
        ("a.oft_blocks", "a", "oft_blocks"),
        ("a.oft_R.weight", "a", "oft_R"),
        ("a.oft_R.default.weight", "a", "oft_R"),
        ("a.b1.weight", "a", "b1"),
        ("a.on_input", "a", "on_input"),
        ("a.weight", "a", "weight"),
    ],
)
def test_key_is_a_stem_and_a_role(key: str, stem: str, role: str):
    assert named(key) == Named(stem, role)


@pytest.mark.parametrize("key", ["conditioner.embedders.0.bias", "emb_params", "bundle_emb.style.clip_l"])
def test_other_keys_have_no_role(key: str):
    assert named(key) is None


@pytest.mark.parametrize(
    ("stem", "part", "layer"),
    [
        (f"lora_unet_{_ATTENTION.replace('.', '_')}", "denoiser", _ATTENTION),
        (f"lora_unet_{_THEIRS.replace('.', '_')}", "denoiser", _ATTENTION),
        (f"lycoris_{_THEIRS.replace('.', '_')}", "denoiser", _ATTENTION),
        (f"unet.{_THEIRS}", "denoiser", _ATTENTION),
        (f"base_model.model.{_THEIRS}", "denoiser", _ATTENTION),
        (f"unet.base_model.model.{_THEIRS}", "denoiser", _ATTENTION),
        (f"diffusion_model.{_ATTENTION}", "denoiser", _ATTENTION),
        (_THEIRS, "denoiser", _ATTENTION),
        ("lora_unet_input_blocks_3_0_op", "denoiser", "input_blocks.3.0.op"),
        ("lora_unet_down_blocks_0_downsamplers_0_conv", "denoiser", "input_blocks.3.0.op"),
        ("unet.up_blocks.0.upsamplers.0.conv", "denoiser", "output_blocks.2.2.conv"),
        ("unet.mid_block.attentions.0.proj_in", "denoiser", "middle_block.1.proj_in"),
        ("unet.add_embedding.linear_1", "denoiser", "label_emb.0.0"),
        ("unet.up_blocks.2.resnets.1.conv_shortcut", "denoiser", "output_blocks.7.0.skip_connection"),
        (f"lora_te1_{_CLIP.replace('.', '_')}", "clip_l", _CLIP),
        (f"lora_te_{_CLIP.replace('.', '_')}", "clip_l", _CLIP),
        (f"lora_te2_{_CLIP.replace('.', '_')}", "clip_g", _CLIP),
        ("lora_te2_text_projection", "clip_g", "text_projection"),
        (f"clip_l.{_CLIP}", "clip_l", _CLIP),
        (f"clip_g.{_CLIP}", "clip_g", _CLIP),
        (f"unet.{_ATTENTION}", "denoiser", _ATTENTION),
        (f"text_encoder.{_CLIP}", "clip_l", _CLIP),
        (f"text_encoder_2.{_CLIP}", "clip_g", _CLIP),
        (f"text_encoder_2.{_CLIP.removeprefix('text_model.')}", "clip_g", _CLIP),
        (f"text_encoders.clip_g.transformer.{_CLIP}", "clip_g", _CLIP),
    ],
)
def test_sdxl_name_means_one_layer(stem: str, part: str, layer: str):
    assert sdxl_places().find(stem) == ([place(part, layer)], "")


_HIDDEN = 1536


@pytest.mark.parametrize(
    ("stem", "expected"),
    [
        ("lora_unet_joint_blocks_0_x_block_attn_qkv", place("denoiser", "joint_blocks.0.x_block.attn.qkv")),
        ("lora_unet_joint_blocks_7_context_block_mlp_fc1", place("denoiser", "joint_blocks.7.context_block.mlp.fc1")),
        ("lora_unet_context_embedder", place("denoiser", "context_embedder")),
        ("lora_unet_final_layer_linear", place("denoiser", "final_layer.linear")),
        ("lora_te3_encoder_block_0_layer_0_SelfAttention_q", place("t5", "encoder.block.0.layer.0.SelfAttention.q")),
        (
            "text_encoder_3.encoder.block.1.layer.1.DenseReluDense.wi_1",
            place("t5", "encoder.block.1.layer.1.DenseReluDense.wi_1"),
        ),
        ("t5.encoder.block.0.layer.0.SelfAttention.q", place("t5", "encoder.block.0.layer.0.SelfAttention.q")),
        (
            "transformer.joint_blocks.3.context_block.attn.qkv.1",
            place("denoiser", "joint_blocks.3.context_block.attn.qkv", (_HIDDEN, 2 * _HIDDEN)),
        ),
        (
            "transformer.joint_blocks.23.context_block.adaLN_modulation.1",
            place("denoiser", "joint_blocks.23.context_block.adaLN_modulation.1"),
        ),
        (
            "transformer.transformer_blocks.3.attn.to_q",
            place("denoiser", "joint_blocks.3.x_block.attn.qkv", (0, _HIDDEN)),
        ),
        (
            "lora_transformer_transformer_blocks_3_attn_to_v",
            place("denoiser", "joint_blocks.3.x_block.attn.qkv", (2 * _HIDDEN, 3 * _HIDDEN)),
        ),
        (
            "lycoris_transformer_blocks_3_attn_add_k_proj",
            place("denoiser", "joint_blocks.3.context_block.attn.qkv", (_HIDDEN, 2 * _HIDDEN)),
        ),
        (
            "base_model.model.transformer_blocks.12.attn2.to_v",
            place("denoiser", "joint_blocks.12.x_block.attn2.qkv", (2 * _HIDDEN, 3 * _HIDDEN)),
        ),
        (
            "transformer.transformer_blocks.5.attn.to_out.0",
            place("denoiser", "joint_blocks.5.x_block.attn.proj"),
        ),
        (
            "transformer.transformer_blocks.5.attn.to_add_out",
            place("denoiser", "joint_blocks.5.context_block.attn.proj"),
        ),
        ("transformer.transformer_blocks.5.ff.net.0.proj", place("denoiser", "joint_blocks.5.x_block.mlp.fc1")),
        ("transformer.pos_embed.proj", place("denoiser", "x_embedder.proj")),
        ("transformer.proj_out", place("denoiser", "final_layer.linear")),
        ("transformer.norm_out.linear", place("denoiser", "final_layer.adaLN_modulation.1", swapped=True)),
        ("diffusion_model.final_layer.adaLN_modulation.1", place("denoiser", "final_layer.adaLN_modulation.1")),
        (
            "transformer.transformer_blocks.23.norm1_context.linear",
            place("denoiser", "joint_blocks.23.context_block.adaLN_modulation.1", swapped=True),
        ),
        (
            "transformer.transformer_blocks.22.norm1_context.linear",
            place("denoiser", "joint_blocks.22.context_block.adaLN_modulation.1"),
        ),
    ],
)
def test_sd35_name_means_one_layer_or_its_rows(stem: str, expected: Place):
    assert sd35_places().find(stem) == ([expected], "")


def test_sd1_names_resolve_in_both_namings():
    from tests.nn.test_published_keys import SD1, UNet

    with torch.device("meta"):
        places = Places({"denoiser": UNet(SD1)})
    ours = places.find("lora_unet_input_blocks_1_1_proj_in")
    assert ours == places.find("lora_unet_down_blocks_0_attentions_0_proj_in")
    assert ours == ([place("denoiser", "input_blocks.1.1.proj_in")], "")


@pytest.mark.parametrize("part", ["clip_h", "clip_g"])
def test_the_text_encoder_of_sd2_and_of_the_refiner_is_found(part: str):
    from backend.text.encoders import build_clip
    from tests.checkpoints.tiny import CLIP_G

    with torch.device("meta"):
        places = Places({part: build_clip(CLIP_G)})  # type: ignore[dict-item]
    for stem in (f"lora_te_{_CLIP.replace('.', '_')}", f"text_encoder.{_CLIP}"):
        assert places.find(stem) == ([place(part, _CLIP)], "")


def test_every_layer_of_both_denoisers_has_a_name_in_each_naming():
    """A trainer may train any of them; none may be out of reach of diffusers' names."""
    for places, per_layer in ((sdxl_places(), 1), (sd35_places(), 6)):
        network = places.modules["denoiser"]
        layers = [name for name, layer in network.named_modules() if getattr(layer, "weight", None) is not None]
        theirs = [p for name, p in places._dotted["denoiser"].items() if name != p.layer]
        same = {"context_embedder"} & set(layers)
        assert {p.layer for p in theirs} | same == set(layers)
        fused = sum(layer.endswith("qkv") for layer in layers)
        assert len(theirs) == len(layers) - len(same) + fused * (per_layer - 1)


def test_raw_peft_name_of_a_text_encoder_is_told_by_its_shape():
    adapter = parse_adapter(in_peft_naming(lora(f"base_model.model.{_CLIP}", (128, 128)), "default"), {}, tiny_places())
    assert {part: list(changes) for part, changes in adapter.changes.items()} == {"clip_g": [f"{_CLIP}.weight"]}


def test_name_of_an_encoder_that_is_not_there_says_so():
    found, why = sdxl_places().find("lora_te3_encoder_block_0_layer_0_SelfAttention_q")
    assert not found
    assert why == "for T5, which this checkpoint has not"


def test_onetrainers_flat_names_with_one_dot_left_join_their_alpha():
    """Its older files have ``..._attn1.to_q.hada_w1_a`` beside ``..._attn1_to_q.alpha``."""
    stem = f"lora_unet_{_THEIRS.replace('.', '_')}"
    dotted = stem.removesuffix("_to_q") + ".to_q"
    modules = tiny_places().modules
    ours = tiny_places().find(stem)[0][0]
    out, inner = modules["denoiser"].get_submodule(ours.layer).weight.shape  # type: ignore[union-attr]
    tensors = {
        f"{dotted}.hada_w{n}_{ab}": torch.ones((out, 2) if ab == "a" else (2, inner)) for n in "12" for ab in "ab"
    }
    adapter = parse_adapter(tensors | {f"{stem}.alpha": torch.tensor(1.0)}, {}, tiny_places())
    assert adapter.match.matched == adapter.match.total == 5
    assert adapter.kinds == {"LoHa": 1}
    (change,) = adapter.changes["denoiser"][f"{ours.layer}.weight"]
    assert change.change.scale == 0.5
