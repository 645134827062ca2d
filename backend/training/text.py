"""From captions to conditioning, with gradients: the same tensors that the families make at inference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.clip.modeling_clip import CLIPTextModelWithProjection
from transformers.models.t5.modeling_t5 import T5EncoderModel

from backend.diffusion.conditioning import Conditioning
from backend.families.sdxl import SIZE_WAVES
from backend.formats.constants import CLIP_SKIP
from backend.nn.layers import sinusoid
from backend.text.encoders import build_clip, build_t5, clip_states, t5_states
from backend.text.prompt import ParsedPrompt, Piece
from backend.text.tokenize import ClipTokenizer, T5Tokenizer
from backend.training.recipe import Recipe
from backend.training.vocabulary import Vocabulary


def build_encoders(recipe: Recipe) -> dict[str, nn.Module]:
    """The recipe's text encoders with random weights; CLIP-L's projection is the identity and stays it."""
    clip_l = build_clip(recipe.clip_l)
    nn.init.eye_(clip_l.text_projection.weight)
    clip_l.text_projection.requires_grad_(False)
    encoders: dict[str, nn.Module] = {"clip_l": clip_l, "clip_g": build_clip(recipe.clip_g)}
    if recipe.t5 is not None:
        encoders["t5"] = build_t5(recipe.t5)
    return encoders


class Captioner:
    """Token ids of captions, as (B, T) tensors, framed by the tokenizers that the engine uses."""

    def __init__(self, recipe: Recipe, vocabulary: Vocabulary) -> None:
        self._clip_l = ClipTokenizer(recipe.clip_l, vocabulary.clip_json)
        self._clip_g = ClipTokenizer(recipe.clip_g, vocabulary.clip_json)
        self._t5 = None if recipe.t5 is None else T5Tokenizer(recipe.t5, vocabulary.t5_json)
        self._t5_length = 0 if recipe.t5 is None else recipe.t5.min_length
        self._framed = lru_cache(maxsize=100_000)(self._frame)

    def _frame(self, caption: str) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        prompt = ParsedPrompt(((Piece(caption, 1.0),),) if caption else ((),))
        t5 = self._t5.sequence(prompt).ids if self._t5 is not None else ()
        return self._clip_l.chunks(prompt)[0].ids, self._clip_g.chunks(prompt)[0].ids, t5

    def __call__(self, captions: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
        """Ids for CLIP-L, CLIP-G and T5 (no columns without a T5)."""
        rows = [self._framed(caption) for caption in captions]
        clip_l, clip_g, t5 = (list(column) for column in zip(*rows, strict=True))
        longest = max(self._t5_length, *map(len, t5))
        t5 = [row + (0,) * (longest - len(row)) for row in t5]
        return torch.tensor(clip_l), torch.tensor(clip_g), torch.tensor(t5, dtype=torch.long)


def size_waves(height: int, width: int, count: int) -> Tensor:
    """SDXL's size numbers for whole, uncropped pictures: (count, 6 * 256)."""
    sizes = torch.tensor([height, width, 0, 0, height, width], dtype=torch.float32)
    return sinusoid(sizes, SIZE_WAVES).flatten().expand(count, -1)


def encode_captions(
    recipe: Recipe,
    encoders: Mapping[str, nn.Module],
    ids: tuple[Tensor, Tensor, Tensor],
    *,
    size: tuple[int, int],
    dropped: Tensor,
    use_t5: bool = True,
) -> Conditioning:
    """Conditioning of a batch, as ``families`` makes it from prompts.

    Args:
        ids: what ``Captioner`` gives.
        size: height and width of the pictures in pixels.
        dropped: (B,) bool: SDXL rows that are zeroed, as its empty negative prompt is.
        use_t5: SD3: append T5's tokens; otherwise the context is CLIP's tokens alone.
    """
    skip = CLIP_SKIP[recipe.family]
    left = clip_states(
        cast("CLIPTextModelWithProjection", encoders["clip_l"]), ids[0], eos=recipe.clip_l.eos, clip_skip=skip
    )
    right = clip_states(
        cast("CLIPTextModelWithProjection", encoders["clip_g"]), ids[1], eos=recipe.clip_g.eos, clip_skip=skip
    )
    context = torch.cat([left.hidden, right.hidden], dim=-1)
    if recipe.family == "sdxl":
        kept = (~dropped).to(context.dtype)[:, None]
        waves = size_waves(*size, len(context)).to(context.device)
        pooled = torch.cat([right.pooled_projected * kept, waves.to(context.dtype)], dim=-1)
        return Conditioning(context * kept[:, :, None], pooled)
    context = F.pad(context, (0, recipe.denoiser.context_dim - context.shape[-1]))
    if use_t5:
        context = torch.cat([context, t5_states(cast("T5EncoderModel", encoders["t5"]), ids[2])], dim=1)
    return Conditioning(context, torch.cat([left.pooled_unprojected, right.pooled_projected], dim=-1))
