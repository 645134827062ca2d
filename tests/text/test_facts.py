"""What no CLIP file says of itself (FORMATS.md section 1): the activation, the layer, the final norm."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from transformers import CLIPTextConfig
from transformers.models.clip.modeling_clip import CLIPTextModelWithProjection

from backend.formats.configs import CLIPConfig
from backend.formats.measure import clip_config
from backend.formats.reader import TensorInfo
from backend.text.encoders import build_clip, clip_states
from tests.builders import randomise
from tests.checkpoints.tiny import CLIP_G, CLIP_H, CLIP_L

ENCODERS = {"clip_l": CLIP_L, "clip_g": CLIP_G, "clip_h": CLIP_H}
IDS = torch.tensor([[298, *range(5, 30), *[299] * 51]])


def measured(part: str) -> tuple[CLIPConfig, dict[str, Tensor]]:
    """The config that detection reads from an encoder's keys, and its weights."""
    state = randomise(build_clip(ENCODERS[part]), seed=3).state_dict()
    tensors = {key: TensorInfo("F32", tuple(tensor.shape)) for key, tensor in state.items()}
    return clip_config(tensors, is_clip_l=part == "clip_l"), dict(state)


def oracle(config: CLIPConfig, state: dict[str, Tensor], activation: str) -> CLIPTextModelWithProjection:
    model = CLIPTextModelWithProjection(
        CLIPTextConfig(
            vocab_size=300, hidden_size=config.width, intermediate_size=config.intermediate, hidden_act=activation,
            num_hidden_layers=config.layers, num_attention_heads=config.width // 64, projection_dim=config.width,
            max_position_embeddings=77, bos_token_id=298, eos_token_id=299, pad_token_id=config.pad,
        )
    )  # fmt: skip
    model.load_state_dict(state, strict=config.projection_dim is not None)
    return model.eval()


@pytest.mark.oracle
@pytest.mark.parametrize(("part", "activation"), [("clip_l", "quick_gelu"), ("clip_g", "gelu"), ("clip_h", "gelu")])
def test_fact_3_clip_l_is_quick_gelu_and_the_others_gelu(part: str, activation: str) -> None:
    config, state = measured(part)
    ours = build_clip(config)
    ours.load_state_dict(state)
    other = {"quick_gelu": "gelu", "gelu": "quick_gelu"}[activation]
    with torch.no_grad():
        got = clip_states(ours, IDS, eos=299, clip_skip=2).hidden
        want, wrong = (
            oracle(config, state, each).text_model(IDS, output_hidden_states=True).hidden_states[-2]
            for each in (activation, other)
        )
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
    assert float((got - wrong).abs().max() / want.abs().max()) > 1e-3


@pytest.mark.oracle
@pytest.mark.parametrize("clip_skip", [1, 2])
@pytest.mark.parametrize("part", ["clip_l", "clip_g", "clip_h"])
def test_fact_4_the_final_norm_acts_on_the_chosen_layer_of_sd1_and_sd2_alone(part: str, clip_skip: int) -> None:
    config, state = measured(part)
    ours = build_clip(replace(config))
    ours.load_state_dict(state)
    theirs = oracle(config, state, config.activation)
    with torch.no_grad():
        layer = theirs.text_model(IDS, output_hidden_states=True).hidden_states[-clip_skip]
        normed = theirs.text_model.final_layer_norm(layer)
        bare = clip_states(ours, IDS, eos=299, clip_skip=clip_skip)
        with_norm = clip_states(ours, IDS, eos=299, clip_skip=clip_skip, final_norm=True)
    torch.testing.assert_close(bare.hidden, layer, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(with_norm.hidden, normed, rtol=1e-5, atol=1e-5)
    assert float((normed - layer).abs().max()) > 1e-2
    torch.testing.assert_close(bare.pooled_projected, with_norm.pooled_projected)  # always of the last layer
