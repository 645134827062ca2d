"""The encoders: published key names, and the same numbers as transformers' own use and as the papers' formulas."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from backend.errors import BadRequest
from backend.text.encoders import build_clip, build_t5, clip_states, t5_states
from tests.builders import randomise
from tests.text.tiny import CLIP_G, CLIP_L, T5

SMALL_L = replace(CLIP_L, vocab_size=100, bos=97, eos=98, pad=98)
SMALL_G = replace(CLIP_G, vocab_size=100, bos=97, eos=98, pad=0)
SMALL_T5 = replace(T5, vocab_size=100)


def ids_for(config, *lengths: int) -> Tensor:
    """(B, 77) chunks with so many random tokens each."""
    generator = torch.Generator().manual_seed(5)
    rows = []
    for length in lengths:
        tokens = torch.randint(3, 90, (length,), generator=generator).tolist()
        rows.append([config.bos, *tokens, config.eos, *[config.pad] * (75 - length)])
    return torch.tensor(rows)


@pytest.mark.parametrize("config", [SMALL_L, SMALL_G, replace(SMALL_L, projection_dim=None)])
def test_clip_has_the_published_keys_and_completes_from_meta(config):
    model = randomise(build_clip(config))
    with torch.device("meta"):
        empty = build_clip(config)
    state = model.state_dict()
    prefix = "text_model.encoder.layers.0."
    assert {key.removeprefix(prefix) for key in state if key.startswith(prefix)} == {
        f"{name}.{kind}"
        for name in (
            *(f"self_attn.{letter}_proj" for letter in ("q", "k", "v", "out")),
            *("layer_norm1", "layer_norm2", "mlp.fc1", "mlp.fc2"),
        )
        for kind in ("weight", "bias")
    }
    assert {key for key in state if ".layers." not in key} == {
        "text_model.embeddings.token_embedding.weight",
        "text_model.embeddings.position_embedding.weight",
        "text_model.final_layer_norm.weight",
        "text_model.final_layer_norm.bias",
        *(["text_projection.weight"] if config.projection_dim else []),
    }
    empty.load_state_dict(state, assign=True)
    assert not any(tensor.is_meta for tensor in [*empty.parameters(), *empty.buffers()])
    ids = ids_for(config, 5, 75)
    expected = clip_states(model, ids, eos=config.eos, clip_skip=2)
    torch.testing.assert_close(clip_states(empty, ids, eos=config.eos, clip_skip=2).hidden, expected.hidden)


def test_t5_has_the_published_keys_and_completes_from_meta():
    model = randomise(build_t5(SMALL_T5))
    with torch.device("meta"):
        empty = build_t5(SMALL_T5)
    state = model.state_dict()
    assert {key for key in state if ".block." not in key} == {"shared.weight", "encoder.final_layer_norm.weight"}
    prefix = "encoder.block.0.layer."
    assert {key.removeprefix(prefix) for key in state if key.startswith(prefix)} == {
        *(f"0.SelfAttention.{letter}.weight" for letter in "qkvo"),
        "0.SelfAttention.relative_attention_bias.weight",
        "0.layer_norm.weight",
        *(f"1.DenseReluDense.{name}.weight" for name in ("wi_0", "wi_1", "wo")),
        "1.layer_norm.weight",
    }
    empty.load_state_dict(state, assign=True)
    ids = torch.arange(77)[None]
    torch.testing.assert_close(t5_states(empty, ids), t5_states(model, ids))


def test_a_copied_t5_has_an_embedding_of_its_own():
    model = build_t5(SMALL_T5)
    ids = torch.arange(8)[None]
    before = t5_states(model, ids)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.shared.weight.zero_()
    assert torch.equal(t5_states(model, ids), before)
    assert t5_states(twin, ids).abs().max() == 0


@pytest.mark.oracle
@pytest.mark.parametrize("config", [SMALL_L, SMALL_G])
def test_clip_matches_transformers_own_outputs(config):
    model = randomise(build_clip(config))
    ids = ids_for(config, 0, 7, 75)
    theirs = model(input_ids=ids, output_hidden_states=True)
    penultimate = clip_states(model, ids, eos=config.eos, clip_skip=2)
    torch.testing.assert_close(penultimate.hidden, theirs.hidden_states[-2], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(penultimate.pooled_projected, theirs.text_embeds, rtol=1e-5, atol=1e-5)
    last = clip_states(model, ids, eos=config.eos, clip_skip=1).hidden
    normed = model.text_model.final_layer_norm(last)
    torch.testing.assert_close(normed, theirs.last_hidden_state, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("config", [SMALL_L, SMALL_G])
@pytest.mark.parametrize("clip_skip", [1, 2, 3])
def test_fact_3_clip_is_the_formula_with_its_own_activation(config, clip_skip):
    model = randomise(build_clip(config))
    ids = ids_for(config, 0, 7, 75)
    hidden, pooled = clip_formula(model.state_dict(), config, ids, clip_skip)
    states = clip_states(model, ids, eos=config.eos, clip_skip=clip_skip)
    torch.testing.assert_close(states.hidden.double(), hidden, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(states.pooled_unprojected.double(), pooled, rtol=1e-4, atol=1e-5)
    projected = pooled @ model.state_dict()["text_projection.weight"].double().T
    torch.testing.assert_close(states.pooled_projected.double(), projected, rtol=1e-4, atol=1e-5)


def test_fact_3_the_other_activation_would_be_seen():
    ids = ids_for(SMALL_L, 7)
    right, wrong = (
        clip_states(randomise(build_clip(replace(SMALL_L, activation=name))), ids, eos=SMALL_L.eos, clip_skip=2).hidden
        for name in ("quick_gelu", "gelu")
    )
    assert (right - wrong).abs().max() > 1e-3 * right.abs().max()


def clip_formula(state: dict[str, Tensor], config, ids: Tensor, clip_skip: int) -> tuple[Tensor, Tensor]:
    """CLIP's text tower in float64 from its weights alone (Radford et al. 2021, section 2.4)."""
    w = {key.removeprefix("text_model."): value.double() for key, value in state.items()}

    def linear(name: str, x: Tensor) -> Tensor:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], eps=1e-5)

    x = w["embeddings.token_embedding.weight"][ids] + w["embeddings.position_embedding.weight"]
    causal = torch.full((77, 77), -math.inf, dtype=torch.float64).triu(1)
    layers = []
    for i in range(config.layers):
        name = f"encoder.layers.{i}"
        h = norm(f"{name}.layer_norm1", x)
        q, k, v = (
            linear(f"{name}.self_attn.{letter}_proj", h).unflatten(-1, (config.heads, -1)).transpose(1, 2)
            for letter in "qkv"
        )
        attention = (q @ k.mT / math.sqrt(q.shape[-1]) + causal).softmax(-1) @ v
        x = x + linear(f"{name}.self_attn.out_proj", attention.transpose(1, 2).flatten(2))
        h = linear(f"{name}.mlp.fc1", norm(f"{name}.layer_norm2", x))
        h = h * torch.sigmoid(1.702 * h) if config.activation == "quick_gelu" else F.gelu(h)
        x = x + linear(f"{name}.mlp.fc2", h)
        layers.append(x)
    first_end = [row.index(config.eos) for row in ids.tolist()]
    return layers[-clip_skip], norm("final_layer_norm", x)[range(len(ids)), first_end]


def test_t5_is_the_formula():
    model = randomise(build_t5(SMALL_T5))
    ids = torch.cat([torch.arange(3, 60), torch.tensor([1]), torch.zeros(142, dtype=torch.int64)])[None]
    expected = t5_formula(model.state_dict(), ids)
    torch.testing.assert_close(t5_states(model, ids).double(), expected, rtol=1e-4, atol=1e-4)


def t5_formula(state: dict[str, Tensor], ids: Tensor) -> Tensor:
    """T5 v1.1's encoder in float64 from its weights alone (Raffel et al. 2020, section 2.1; Shazeer 2020, GEGLU)."""
    w = {key: value.double() for key, value in state.items()}

    def norm(name: str, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * w[f"{name}.weight"]

    def bucket(distance: int) -> int:
        side, far = (16, abs(distance)) if distance > 0 else (0, abs(distance))
        if far >= 8:  # 8 exact distances, then logarithmic ones up to 128
            far = min(8 + int(math.log(far / 8) / math.log(128 / 8) * 8 + 1e-9), 15)
        return side + far

    length = ids.shape[1]
    buckets = torch.tensor([[bucket(key - query) for key in range(length)] for query in range(length)])
    bias = w["encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"][buckets].permute(2, 0, 1)
    x = w["shared.weight"][ids]
    for i in range(SMALL_T5.layers):
        name = f"encoder.block.{i}.layer.0"
        h = norm(f"{name}.layer_norm", x)
        q, k, v = (
            (h @ w[f"{name}.SelfAttention.{letter}.weight"].T).unflatten(-1, (SMALL_T5.heads, -1)).transpose(1, 2)
            for letter in "qkv"
        )
        attention = (q @ k.mT + bias).softmax(-1) @ v  # not divided by the root of the width
        x = x + attention.transpose(1, 2).flatten(2) @ w[f"{name}.SelfAttention.o.weight"].T
        name = f"encoder.block.{i}.layer.1"
        h = norm(f"{name}.layer_norm", x)
        gate = F.gelu(h @ w[f"{name}.DenseReluDense.wi_0.weight"].T, approximate="tanh")
        h = gate * (h @ w[f"{name}.DenseReluDense.wi_1.weight"].T)
        x = x + h @ w[f"{name}.DenseReluDense.wo.weight"].T
    return norm("encoder.final_layer_norm", x)


def test_pooling_takes_the_first_end_token_whatever_its_id():
    config = replace(SMALL_L, bos=1, eos=2, pad=2)  # transformers pools at the greatest id when the end token is 2
    model = randomise(build_clip(config))
    ids = ids_for(config, 7)
    hidden = clip_states(model, ids, eos=2, clip_skip=1).hidden
    expected = model.text_model.final_layer_norm(hidden)[:, 8]
    torch.testing.assert_close(clip_states(model, ids, eos=2, clip_skip=1).pooled_unprojected, expected)


def test_causal_clip_does_not_see_what_follows():
    model = randomise(build_clip(SMALL_L))
    ids = ids_for(SMALL_L, 20)
    changed = ids.clone()
    changed[0, 10] = 5 if ids[0, 10] != 5 else 6
    before, after = (clip_states(model, each, eos=98, clip_skip=2).hidden for each in (ids, changed))
    assert torch.equal(before[:, :10], after[:, :10])
    assert not torch.equal(before[:, 10], after[:, 10])


def test_gradients_reach_every_weight_in_training():
    clip = build_clip(SMALL_L).train()
    states = clip_states(clip, ids_for(SMALL_L, 7, 30), eos=98, clip_skip=1)
    (states.hidden.square().mean() + states.pooled_projected.square().mean()).backward()
    t5 = build_t5(SMALL_T5).train()
    t5_states(t5, torch.arange(50)[None]).square().mean().backward()
    for name, parameter in [*clip.named_parameters(), *t5.named_parameters()]:
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("clip_skip", [0, 4, 12])
def test_a_layer_that_is_not_there_is_refused(clip_skip):
    with pytest.raises(BadRequest, match="from 1 to 3") as caught:
        clip_states(build_clip(SMALL_L), ids_for(SMALL_L, 1), eos=98, clip_skip=clip_skip)
    assert caught.value.field == "clip_skip"
