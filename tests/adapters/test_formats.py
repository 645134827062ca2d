"""A whole file: every key is used or named, scales come from where they stand, and facts of files hold."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from backend.adapters.apply import AdapterUse, applied
from backend.adapters.formats import Adapter, parse_adapter, read_adapter
from backend.adapters.places import Places
from backend.checkpoints.convert import clip_to_open_clip
from backend.checkpoints.diffusers_layout import mmdit_to_diffusers, unet_to_diffusers
from backend.checkpoints.save import write_tensors
from backend.errors import ModelUnsupported, NotFound
from tests import builders
from tests.adapters.making import in_peft_naming, lora, lora_delta, numbers, sdxl_places, tiny_modules, tiny_places
from tests.oracles.diffusers_networks import diffusers_mmdit, diffusers_unet

_TO_Q = "input_blocks.3.1.transformer_blocks.0.attn1.to_q"


def deltas(adapter: Adapter, places: Places, part: str = "denoiser") -> dict[str, Tensor]:
    """What an adapter adds to each whole parameter at strength 1."""
    found: dict[str, Tensor] = {}
    for name, changes in adapter.changes[part].items():  # type: ignore[index]
        own = places.modules[part].get_parameter(name).float()  # type: ignore[index]
        found[name] = torch.zeros_like(own)
        for change in changes:
            change.region(found[name]).add_(change.of(own))
    return found


def test_match_tells_how_many_keys_are_used_and_names_the_rest():
    flat = _TO_Q.replace(".", "_")
    tensors = lora(f"lora_unet_{flat}", (64, 64), alpha=4.0)
    tensors |= lora("lora_unet_input_blocks_9_1_proj_in", (64, 64))
    tensors |= lora("lora_te3_encoder_block_0_layer_0_SelfAttention_q", (64, 64))
    tensors |= lora("lora_unet_middle_block_1_proj_in", (60, 64))
    tensors |= {"lora_unet_middle_block_1_proj_out.lora_up.weight": numbers(64, 4), "bundle_emb.a.clip_l": numbers(64)}
    match = parse_adapter(tensors, {}, tiny_places()).match
    assert (match.matched, match.total) == (3, 11)
    assert {reason: len(keys) for reason, keys in match.left.items()} == {
        "no tensor of an adapter": 1,
        "for a layer that this checkpoint has not": 2,
        "for T5, which this checkpoint has not": 2,
        "of another shape than the checkpoint's layer": 2,
        "without the others of its kind": 1,
    }
    assert sum(len(keys) for keys in match.left.values()) == match.total - match.matched
    assert match.sentence(named=1).startswith("matched 3 of 11 keys; 1 no tensor of an adapter: bundle_emb.a.clip_l")


def test_a_layer_named_twice_is_changed_once():
    """The same weight in both namings: adding both would double the effect."""
    theirs = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    tensors = lora(f"lora_unet_{_TO_Q.replace('.', '_')}", (64, 64)) | in_peft_naming(lora(theirs, (64, 64)))
    adapter = parse_adapter(tensors, {}, tiny_places())
    assert adapter.match.matched == 2
    assert list(adapter.match.left) == ["for a layer that another name in the file has changed already"]


def test_file_for_another_checkpoint_is_refused_with_the_reason(tmp_path):
    path = tmp_path / "other.safetensors"
    write_tensors(path, lora("lora_unet_double_blocks_0_img_attn_qkv", (64, 64)), {})
    with pytest.raises(
        ModelUnsupported, match=r"other.safetensors changes nothing .* matched 0 of 2 keys; 2 for a layer"
    ):
        read_adapter(path, tiny_places())
    with pytest.raises(NotFound):
        read_adapter(tmp_path / "gone.safetensors", tiny_places())


def test_file_is_read_from_disk(tmp_path):
    path = tmp_path / "style.safetensors"
    write_tensors(path, lora(f"lora_unet_{_TO_Q.replace('.', '_')}", (64, 64), alpha=2.0), {"ss_network_dim": "4"})
    adapter = read_adapter(path, tiny_places())
    assert adapter.name == "style"
    assert adapter.match.sentence() == "matched 3 of 3 keys"
    assert adapter.kinds == {"LoRA": 1}


def test_peft_metadata_gives_alpha_by_module():
    places = tiny_places()
    layers = ("to_q", "to_k")
    stem = "down_blocks.1.attentions.0.transformer_blocks.0.attn1"
    kohya: dict[str, Tensor] = {}
    for layer in layers:
        kohya |= lora(f"unet.{stem}.{layer}", (64, 64))
    told = {"unet.r": 4, "unet.lora_alpha": 8, "unet.alpha_pattern": {"attn1.to_k": 2.0}, "unet.rank_pattern": {}}
    adapter = parse_adapter(in_peft_naming(kohya), {"lora_adapter_metadata": json.dumps(told)}, places)
    found = deltas(adapter, places)
    base = "input_blocks.3.1.transformer_blocks.0.attn1"
    for layer, scale in zip(layers, (2.0, 0.5), strict=True):
        want = lora_delta(kohya, f"unet.{stem}.{layer}", scale).float()
        torch.testing.assert_close(found[f"{base}.{layer}.weight"], want)
    stabilised = told | {"unet.use_rslora": True}
    adapter = parse_adapter(in_peft_naming(kohya), {"lora_adapter_metadata": json.dumps(stabilised)}, places)
    want = lora_delta(kohya, f"unet.{stem}.to_q", 8 / 4**0.5).float()
    torch.testing.assert_close(deltas(adapter, places)[f"{base}.to_q.weight"], want)


@pytest.mark.parametrize("text", ["", "[1]", "{", '{"unet.lora_alpha": "x"}', '{"unet.lora_alpha": NaN}'])
def test_metadata_that_says_nothing_leaves_the_scale_at_one(text: str):
    places = tiny_places()
    tensors = lora(f"diffusion_model.{_TO_Q}", (64, 64))
    adapter = parse_adapter(tensors, {"lora_adapter_metadata": text}, places)
    want = lora_delta(tensors, f"diffusion_model.{_TO_Q}").float()
    torch.testing.assert_close(deltas(adapter, places)[f"{_TO_Q}.weight"], want)


@pytest.mark.parametrize("naming", ["peft", "training script", "processor"])
def test_fact_13_diffusers_names_reach_attention_layers_too(naming: str):
    """Three modules in attention and three beside it, of a full-size SDXL: all six find their layer."""
    block = "unet.down_blocks.1.attentions.0.transformer_blocks.0"
    shapes = {
        "attn1.to_q": (640, 640),
        "attn2.to_v": (640, 2048),
        "attn1.to_out.0": (640, 640),
        "ff.net.0.proj": (5120, 640),
        "ff.net.2": (640, 2560),
    }
    made: dict[str, Tensor] = {}
    for layer, shape in shapes.items():
        made |= lora(f"{block}.{layer}", shape)
    made |= lora("unet.down_blocks.1.attentions.0.proj_in", (640, 640))
    if naming == "peft":
        named = in_peft_naming(made)
    else:
        named = {k.replace(".lora_up.", ".lora.up.").replace(".lora_down.", ".lora.down."): t for k, t in made.items()}
    if naming == "processor":
        for name in ("attn1.to_q", "attn2.to_v", "attn1.to_out"):
            attention, layer = name.split(".")
            old = f".{name}.0.lora." if layer == "to_out" else f".{name}.lora."
            named = {k.replace(old, f".{attention}.processor.{layer}_lora."): t for k, t in named.items()}
    adapter = parse_adapter(named, {}, sdxl_places())
    assert adapter.match.sentence() == "matched 12 of 12 keys"
    base = "input_blocks.4.1"
    ours = [f"{base}.transformer_blocks.0.{layer}.weight" for layer in shapes] + [f"{base}.proj_in.weight"]
    assert sorted(adapter.changes["denoiser"]) == sorted(ours)


@pytest.mark.parametrize("prefix", ["lora_transformer_", "lycoris_"])
def test_fact_13_kinds_and_names_that_diffusers_drops_are_used(prefix: str):
    """OneTrainer's and SimpleTuner's SD3 names, and LoHa, LoKr, OFT and full differences under them."""
    places = tiny_places("sd3")
    block = f"{prefix}transformer_blocks_0_"
    named = lora(f"{block}attn_to_k", (128, 128), alpha=1.0)
    named |= {f"{block}attn_to_out_0.{k}": t for k, t in {
        "hada_w1_a": numbers(128, 2), "hada_w1_b": numbers(2, 128),
        "hada_w2_a": numbers(128, 2, seed=1), "hada_w2_b": numbers(2, 128, seed=1), "alpha": torch.tensor(1.0),
    }.items()}  # fmt: skip
    named |= {f"{block}attn_add_v_proj.lokr_w1": numbers(8, 8), f"{block}attn_add_v_proj.lokr_w2": numbers(16, 16)}
    named |= {f"{block}ff_net_2.oft_blocks": numbers(16, 8, 8), f"{block}ff_net_2.alpha": torch.tensor(0.0)}
    named |= {f"{block}attn_to_add_out.diff": numbers(128, 128), f"{block}attn_to_add_out.diff_b": numbers(128)}
    adapter = parse_adapter(named, {}, places)
    assert adapter.match.matched == adapter.match.total, adapter.match.sentence()
    assert adapter.kinds == {"LoRA": 1, "LoHa": 1, "LoKr": 1, "OFT": 1, "full": 2}
    found = deltas(adapter, places)
    qkv = found["joint_blocks.0.x_block.attn.qkv.weight"]
    assert qkv[:128].abs().max() == 0
    assert qkv[128:256].abs().max() > 0
    assert qkv[256:].abs().max() == 0
    context = found["joint_blocks.0.context_block.attn.qkv.weight"]
    torch.testing.assert_close(context[256:], torch.kron(numbers(8, 8), numbers(16, 16)))


def test_clip_g_adapter_changes_its_third_of_the_published_in_proj():
    places = tiny_places()
    layer = "text_model.encoder.layers.2.self_attn.k_proj"
    tensors = lora(f"lora_te2_{layer.replace('.', '_')}", (128, 128))
    adapter = parse_adapter(tensors, {}, places)
    clip_g = places.modules["clip_g"]
    before = clip_to_open_clip(clip_g.state_dict())
    with applied({"clip_g": clip_g}, [AdapterUse(adapter)]):
        after = clip_to_open_clip(clip_g.state_dict())
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed == {"transformer.resblocks.2.attn.in_proj_weight"}
    (key,) = changed
    rows = (before[key] != after[key]).any(dim=1)
    assert not rows[:128].any()
    assert rows[128:256].all()
    assert not rows[256:].any()


_SD3_SWAPPED = {
    "transformer.norm_out.linear": "final_layer.adaLN_modulation.1",
    "transformer.transformer_blocks.1.norm1_context.linear": "joint_blocks.1.context_block.adaLN_modulation.1",
}


@pytest.mark.oracle
@pytest.mark.parametrize("kind", ["LoRA", "full with bias"])
def test_fact_6_swapped_halves_match_diffusers(kind: str):
    """A file in diffusers' names for the layers whose halves it keeps the other way round: same picture there."""
    mmdit = builders.tiny_mmdit(builders.TINY_MMDIT)
    tensors: dict[str, Tensor] = {}
    for stem in _SD3_SWAPPED:
        tensors |= lora(stem, (256, 128)) if kind == "LoRA" else {}
        tensors |= {} if kind == "LoRA" else {f"{stem}.diff": numbers(256, 128), f"{stem}.diff_b": numbers(256)}
    adapter = parse_adapter(tensors, {}, Places({"denoiser": mmdit}))
    assert adapter.match.matched == adapter.match.total
    theirs = diffusers_mmdit(mmdit.config)
    theirs.load_state_dict(mmdit_to_diffusers(mmdit.state_dict()))
    with torch.no_grad():
        for stem in _SD3_SWAPPED:
            layer = theirs.get_submodule(stem.removeprefix("transformer."))
            layer.weight += lora_delta(tensors, stem).float() if kind == "LoRA" else tensors[f"{stem}.diff"]
            if kind != "LoRA":
                layer.bias += tensors[f"{stem}.diff_b"]
    generator = torch.Generator().manual_seed(1)
    x, t = torch.randn(1, 16, 8, 8, generator=generator), torch.tensor([500.0])
    context, pooled = torch.randn(1, 9, 256, generator=generator), torch.randn(1, 192, generator=generator)
    with torch.no_grad():
        want = theirs(x, context, pooled, t).sample
        with applied({"denoiser": mmdit}, [AdapterUse(adapter)]):
            got = mmdit(x, t, context, pooled)
        unswapped = mmdit(x, t, context, pooled)
    assert (got - want).abs().max() < 3e-5 * want.abs().max()
    assert (unswapped - want).abs().max() > 0.05 * want.abs().max()


@pytest.mark.oracle
def test_adapter_that_diffusers_saved_gives_what_diffusers_gives_with_it(tmp_path):
    """PEFT's names and the header's patterns, on attention, feed-forward and convolution, all with DoRA."""
    from peft import LoraConfig

    from backend.nn.layers import sinusoid

    unet = builders.tiny_unet()
    theirs = diffusers_unet(unet.config)
    theirs.load_state_dict(unet_to_diffusers(unet.state_dict(), unet.config))
    config = LoraConfig(
        r=4, lora_alpha=6, alpha_pattern={"attn2.to_k": 2}, rank_pattern={"ff.net.0.proj": 2}, use_dora=True,
        target_modules=["to_q", "to_k", "to_out.0", "ff.net.0.proj", "conv1", "time_emb_proj"],
    )  # fmt: skip
    theirs.add_adapter(config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if "lora_A" in name or "lora_B" in name:
                parameter.copy_(0.15 * torch.randn(parameter.shape, generator=generator))
    theirs.save_lora_adapter(tmp_path, weight_name="lora.safetensors")
    adapter = read_adapter(tmp_path / "lora.safetensors", Places({"denoiser": unet}))
    assert adapter.match.matched == adapter.match.total > 60, adapter.match.sentence()
    x, context = torch.randn(1, 4, 8, 8, generator=generator), torch.randn(1, 7, 192, generator=generator)
    text, sizes = torch.randn(1, 128, generator=generator), torch.tensor([[64.0, 64, 0, 0, 64, 64]])
    pooled = torch.cat([text, sinusoid(sizes.flatten(), 256).reshape(1, -1)], dim=1)
    t = torch.tensor([321.0])
    with torch.no_grad():
        want = theirs(x, t, context, added_cond_kwargs={"text_embeds": text, "time_ids": sizes}).sample
        plain = unet(x, t, context, pooled)
        with applied({"denoiser": unet}, [AdapterUse(adapter)]):
            got = unet(x, t, context, pooled)
    assert (got - want).abs().max() < 5e-5 * want.abs().max()
    assert (plain - want).abs().max() > 0.01 * want.abs().max()


@pytest.mark.oracle
def test_sd3_adapter_that_diffusers_saved_gives_what_diffusers_gives_with_it(tmp_path):
    """Its split q, k and v are our rows, also of the text half and of the second attention; modulations swapped."""
    from peft import LoraConfig

    mmdit = builders.tiny_mmdit()
    theirs = diffusers_mmdit(mmdit.config)
    theirs.load_state_dict(mmdit_to_diffusers(mmdit.state_dict()))
    theirs.add_adapter(
        LoraConfig(
            r=4, lora_alpha=2, alpha_pattern={"attn.to_k": 8},
            target_modules=["to_q", "to_k", "add_v_proj", "add_q_proj", "to_add_out", "to_out.0", "norm_out.linear",
                            "norm1_context.linear", "ff.net.2", "proj_out", "context_embedder", "pos_embed.proj"],
        )
    )  # fmt: skip
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    theirs.save_lora_adapter(tmp_path, weight_name="lora.safetensors")
    adapter = read_adapter(tmp_path / "lora.safetensors", Places({"denoiser": mmdit}))
    assert adapter.match.matched == adapter.match.total > 30, adapter.match.sentence()
    x, t = torch.randn(1, 16, 8, 8, generator=generator), torch.tensor([500.0])
    context, pooled = torch.randn(1, 9, 256, generator=generator), torch.randn(1, 192, generator=generator)
    with torch.no_grad():
        want = theirs(x, context, pooled, t).sample
        plain = mmdit(x, t, context, pooled)
        with applied({"denoiser": mmdit}, [AdapterUse(adapter)]):
            got = mmdit(x, t, context, pooled)
    assert (got - want).abs().max() < 5e-5 * want.abs().max()
    assert (plain - want).abs().max() > 0.01 * want.abs().max()


def test_both_namings_of_one_adapter_give_the_same_deltas():
    """A full-rank check of the table: one adapter for all linear layers of a tiny MMDiT, in our names and in theirs."""
    modules = tiny_modules("sd3")
    places = Places(modules)
    mmdit = modules["denoiser"]
    config = replace(builders.TINY_MMDIT_X)
    assert mmdit.config == config
    differences = {n: numbers(*p.shape, seed=len(n)) for n, p in mmdit.named_parameters() if n.endswith("weight")}
    state = {k: differences.get(k, torch.zeros_like(t)) for k, t in mmdit.state_dict().items()}
    theirs = {f"transformer.{k.removesuffix('.weight')}.diff": t for k, t in mmdit_to_diffusers(state).items()
              if k.endswith(".weight")}  # fmt: skip
    ours = {f"diffusion_model.{k.removesuffix('.weight')}.diff": t for k, t in differences.items()}
    first, second = (parse_adapter(tensors, {}, places) for tensors in (ours, theirs))
    assert first.match.matched == first.match.total == len(differences)
    assert second.match.matched == second.match.total, second.match.sentence()
    a, b = deltas(first, places), deltas(second, places)
    assert a.keys() == b.keys() == differences.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
