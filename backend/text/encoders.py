"""The text encoders as networks: transformers' classes with the published files' key names, and one forward each.

Knows nothing of prompts or tokenizers. Importing it costs seconds (transformers), so only the engine and training do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPTextConfig
from transformers import T5Config as TransformersT5Config
from transformers.models.clip.modeling_clip import CLIPTextModelWithProjection
from transformers.models.t5.modeling_t5 import T5DenseGatedActDense, T5EncoderModel

from backend.errors import BadRequest
from backend.formats.configs import CLIPConfig, T5Config


@dataclass(frozen=True)
class ClipStates:
    """What one CLIP forward gives for a batch of chunks.

    Attributes:
        hidden: (B, T, width), the chosen layer; normed only where that was asked for.
        pooled_unprojected: (B, width), the last layer after the final norm at the first end token.
        pooled_projected: (B, projection_dim), the same through ``text_projection`` (as it is where there is none).
    """

    hidden: Tensor
    pooled_unprojected: Tensor
    pooled_projected: Tensor


class _SharedEmbedding(nn.Module):
    """Looks tokens up in another module's embedding without owning it, so that the state dict names it once."""

    embedding: nn.Embedding

    def __init__(self, embedding: nn.Embedding) -> None:
        super().__init__()
        object.__setattr__(self, "embedding", embedding)  # past nn.Module, which would register it

    def forward(self, ids: Tensor) -> Tensor:
        return self.embedding(ids)


class _GatedMlp(nn.Module):
    """T5's feed-forward part with its names; transformers' own reads the last weight's dtype first, and a stored weight
    would be decoded for the question."""

    def __init__(self, published: T5DenseGatedActDense) -> None:
        super().__init__()
        self.wi_0 = published.wi_0
        self.wi_1 = published.wi_1
        self.wo = published.wo
        self.act = published.act

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, T, width) -> (B, T, width)."""
        return self.wo(self.act(self.wi_0(hidden)) * self.wi_1(hidden))


def build_clip(config: CLIPConfig) -> CLIPTextModelWithProjection:
    """A CLIP text encoder with random weights, or empty ones under ``torch.device("meta")``, in eval mode.

    The state dict has exactly the published Hugging Face keys (``text_model....``, ``text_projection.weight``); without
    ``projection_dim`` there is no projection and no key for it. No buffer is left on ``meta``: assigning the state dict
    completes the module.
    """
    model = CLIPTextModelWithProjection(
        CLIPTextConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.width,
            intermediate_size=config.intermediate,
            projection_dim=config.projection_dim or config.width,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            max_position_embeddings=config.positions,
            hidden_act=config.activation,
            layer_norm_eps=1e-5,
            attention_dropout=0.0,
            bos_token_id=config.bos,
            eos_token_id=config.eos,
            pad_token_id=config.pad,
        )
    )
    if config.projection_dim is None:
        model.add_module("text_projection", nn.Identity())
    positions = torch.arange(config.positions, device=_device_for_buffers(model)).unsqueeze(0)  # (1, positions)
    model.text_model.embeddings.register_buffer("position_ids", positions, persistent=False)
    return model.eval()


def build_t5(config: T5Config) -> T5EncoderModel:
    """A T5 v1.1 encoder with random weights, or empty ones under ``torch.device("meta")``, in eval mode.

    The state dict has exactly the published keys; ``encoder.embed_tokens.weight``, a copy of ``shared.weight`` in some
    files, is none of them.
    """
    model = T5EncoderModel(
        TransformersT5Config(
            vocab_size=config.vocab_size,
            d_model=config.width,
            d_kv=config.d_kv,
            d_ff=config.d_ff,
            num_layers=config.layers,
            num_heads=config.heads,
            relative_attention_num_buckets=32,
            relative_attention_max_distance=128,
            feed_forward_proj="gated-gelu",  # the tanh form of gelu, as T5 v1.1 was trained
            layer_norm_epsilon=1e-6,
            dropout_rate=0.0,
        )
    )
    blocks: Any = model.encoder.block
    for block in blocks:
        feed_forward = block.layer[-1]
        feed_forward.DenseReluDense = _GatedMlp(feed_forward.DenseReluDense)
    model.encoder.add_module("embed_tokens", _SharedEmbedding(model.shared))  # the same lookup without a second key
    return model.eval()


def clip_states(
    model: CLIPTextModelWithProjection, ids: Tensor, *, eos: int, clip_skip: int, final_norm: bool = False
) -> ClipStates:
    """Run a batch of whole chunks; gradients flow where they are enabled.

    The attention is causal and no token is masked out: padding is read too, as SDXL and SD3 expect.

    Args:
        ids: (B, T) int64, begin token first, T at most the model's positions.
        eos: the end token's id; its first place is pooled (CLIP-L also pads with it).
        clip_skip: 1 is the last layer, 2 the one before.
        final_norm: the encoder's last norm acts on ``hidden``, whichever layer that is (SD1, SD2); SDXL and SD3 take
            the layer as it is.
    Raises:
        BadRequest: if the encoder has no such layer.
    """
    text_model = model.text_model
    layers = len(text_model.encoder.layers)
    if not 1 <= clip_skip <= layers:
        raise BadRequest(
            f"Clip skip is {clip_skip}, but a CLIP encoder of this checkpoint has {layers} layers.",
            f"Use a value from 1 to {layers}.",
            field="clip_skip",
        )
    output = text_model(input_ids=ids, output_hidden_states=True)
    first_eos = (ids == eos).int().argmax(dim=-1)  # (B,); not transformers' pooling, which has a legacy rule for eos 2
    pooled = output.last_hidden_state[torch.arange(ids.shape[0], device=ids.device), first_eos]
    hidden = output.hidden_states[-clip_skip]
    if final_norm:
        hidden = text_model.final_layer_norm(hidden)
    return ClipStates(hidden, pooled, model.text_projection(pooled))


def t5_states(model: T5EncoderModel, ids: Tensor) -> Tensor:
    """Run T5 on (B, T) ids without an attention mask, as SD3 was trained; (B, T, width) after the final norm."""
    return model(input_ids=ids).last_hidden_state


def _device_for_buffers(model: nn.Module) -> torch.device:
    """Where computed buffers belong: with the weights, or on the CPU while those are still on ``meta``."""
    device = next(model.parameters()).device
    return torch.device("cpu") if device.type == "meta" else device
