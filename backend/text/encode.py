"""From a parsed prompt to what a denoiser reads: CLIP's chunk states with emphasis, and T5's states.

Deterministic and without state; keeping results for the next picture is the engine's business.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.models.clip.modeling_clip import CLIPTextModelWithProjection
from transformers.models.t5.modeling_t5 import T5EncoderModel

from backend.formats.configs import CLIPConfig, T5Config
from backend.request import Emphasis
from backend.text.encoders import clip_states, t5_states
from backend.text.prompt import ParsedPrompt
from backend.text.splice import spliced
from backend.text.tokenize import T5_EOS, T5_PAD, ClipTokenizer, T5Tokenizer


@dataclass(frozen=True)
class ClipFeatures:
    """One prompt through one CLIP encoder.

    Attributes:
        hidden: (1, positions * chunks, width), the chosen layer, emphasised; normed only where that was asked for.
        pooled_projected: (1, projection_dim), from the first chunk; SDXL and SD3 take CLIP-G's.
        pooled_unprojected: (1, width), the same before the projection.
    """

    hidden: Tensor
    pooled_projected: Tensor
    pooled_unprojected: Tensor


@torch.no_grad()
def encode_clip(
    model: CLIPTextModelWithProjection,
    tokenizer: ClipTokenizer,
    config: CLIPConfig,
    prompt: ParsedPrompt,
    *,
    clip_skip: int,
    final_norm: bool = False,
    emphasis: Emphasis = "original",
) -> ClipFeatures:
    """Encode all chunks of a prompt and lay them end to end; weights act on ``hidden`` only.

    Args:
        clip_skip: 1 is the last layer, 2 the one before (SDXL, SD3); layers that the file lacks count.
        final_norm: as in ``clip_states``.
    Raises:
        BadRequest: if the encoder has no such layer.
    """
    chunks = tokenizer.chunks(prompt)
    rows = [chunk.ids for chunk in chunks]
    weights = torch.tensor([chunk.weights for chunk in chunks])  # (chunks, T)
    is_interpolated = emphasis == "interpolate" and bool((weights != 1).any())
    if is_interpolated:  # the empty prompt goes along as the last row
        rows.append((config.bos, config.eos, *(config.pad,) * (config.positions - 2)))
    with spliced(model.text_model.embeddings.token_embedding, [chunk.rows for chunk in chunks]):
        ids = _as_ids(rows, model)
        states = clip_states(model, ids, eos=config.eos, clip_skip=clip_skip - config.cut, final_norm=final_norm)
    hidden = states.hidden[: len(chunks)]
    empty = states.hidden[-1:] if is_interpolated else None
    hidden = emphasise(hidden, weights, emphasis, empty=empty)
    return ClipFeatures(
        hidden.reshape(1, -1, hidden.shape[-1]),  # (chunks, T, D) -> (1, chunks * T, D)
        states.pooled_projected[:1],
        states.pooled_unprojected[:1],
    )


@torch.no_grad()
def encode_t5(
    model: T5EncoderModel,
    tokenizer: T5Tokenizer,
    config: T5Config,
    prompt: ParsedPrompt,
    *,
    emphasis: Emphasis = "ignore",
    full_length: bool = False,
) -> Tensor:
    """Encode a prompt with T5: (1, T, width) with T from ``min_length`` to ``max_length``; what is longer is cut.

    Args:
        full_length: T is ``max_length`` whatever the prompt, as diffusers pads it.
    """
    sequence = tokenizer.sequence(prompt, weighted=emphasis != "ignore" and prompt.is_weighted)
    padding = max((config.max_length if full_length else config.min_length) - len(sequence.ids), 0)
    weights = torch.tensor([(*sequence.weights, *(1.0,) * padding)])  # (1, T)
    rows = [(*sequence.ids, *(T5_PAD,) * padding)]
    is_interpolated = emphasis == "interpolate" and bool((weights != 1).any())
    if is_interpolated:
        rows.append((T5_EOS, *(T5_PAD,) * (len(rows[0]) - 1)))
    with spliced(model.shared, [sequence.rows]):
        states = t5_states(model, _as_ids(rows, model))
    return emphasise(states[:1], weights, emphasis, empty=states[1:] if is_interpolated else None)


def emphasise(hidden: Tensor, weights: Tensor, emphasis: Emphasis, *, empty: Tensor | None = None) -> Tensor:
    """Make tokens act more or less; computed in float32, returned in the dtype that came, untouched if all weigh 1.

    original: each state times its weight, then each chunk's mean brought back to what it was. no norm: the first half
    of it. interpolate: from the empty prompt's state (weight 0) through the token's (1) and beyond. ignore: nothing.

    Args:
        hidden: (chunks, T, D).
        weights: (chunks, T).
        empty: (1, T, D), needed for "interpolate".
    Source: AUTOMATIC1111/stable-diffusion-webui modules/sd_emphasis.py; Comfy-Org/ComfyUI comfy/sd1_clip.py.
    """
    if emphasis == "ignore" or bool((weights == 1).all()):
        return hidden
    states = hidden.float()
    factors = weights.to(states)[..., None]  # (chunks, T, 1)
    if emphasis == "interpolate":
        if empty is None:
            raise ValueError("interpolate needs the empty prompt's states")
        base = empty.float()
        return torch.where(factors == 1, states, base + (states - base) * factors).to(hidden.dtype)
    weighted = states * factors
    if emphasis == "original":
        before = states.mean(dim=(1, 2), keepdim=True)  # (chunks, 1, 1)
        after = weighted.mean(dim=(1, 2), keepdim=True)
        ratio = before / after
        # a mean that the weights bring to 0 cannot be restored; such a chunk stays as "no norm" leaves it
        weighted = weighted * torch.where(ratio.isfinite() & (ratio.abs() < 100), ratio, torch.ones_like(ratio))
    return weighted.to(hidden.dtype)


def _as_ids(rows: list[tuple[int, ...]], model: nn.Module) -> Tensor:
    """(rows, T) int64 where the model's weights are."""
    return torch.tensor(rows, dtype=torch.int64, device=next(model.parameters()).device)
