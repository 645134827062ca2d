"""Tables between the layouts of published files and our canonical keys; names and views only, no copy, no arithmetic.

Canonical keys are those of our own modules (see ``backend/formats/layout.py``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

StateDict = dict[str, Tensor]

#: open_clip -> Hugging Face, outermost name first; q, k, v and the projection are handled beside it.
_OPEN_CLIP_RENAMES: Sequence[tuple[str, str]] = (
    (r"token_embedding\.weight", r"text_model.embeddings.token_embedding.weight"),
    (r"positional_embedding", r"text_model.embeddings.position_embedding.weight"),
    (r"ln_final\.(weight|bias)", r"text_model.final_layer_norm.\1"),
    (r"transformer\.resblocks\.(\d+)\.ln_([12])\.(weight|bias)", r"text_model.encoder.layers.\1.layer_norm\2.\3"),
    (r"transformer\.resblocks\.(\d+)\.mlp\.c_fc\.(weight|bias)", r"text_model.encoder.layers.\1.mlp.fc1.\2"),
    (r"transformer\.resblocks\.(\d+)\.mlp\.c_proj\.(weight|bias)", r"text_model.encoder.layers.\1.mlp.fc2.\2"),
    (
        r"transformer\.resblocks\.(\d+)\.attn\.out_proj\.(weight|bias)",
        r"text_model.encoder.layers.\1.self_attn.out_proj.\2",
    ),
)
_FUSED = re.compile(r"transformer\.resblocks\.(\d+)\.attn\.in_proj_(weight|bias)")
_LAYER_NAMES: Mapping[str, str] = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
_OUTER_NAMES: Mapping[str, str] = {
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm.weight": "ln_final.weight",
    "text_model.final_layer_norm.bias": "ln_final.bias",
}


def clip_from_open_clip(state: Mapping[str, Tensor]) -> StateDict:
    """A text tower from open_clip naming to the Hugging Face layout, as views of the same memory.

    ``in_proj_weight`` (3 W, W) becomes q, k, v by rows; the bare ``text_projection`` P (W, P), used as ``x @ P``,
    becomes a Linear weight (P, W), that is its transpose. Keys without a counterpart, and tensors whose shape allows
    no split, keep their name, so that the loader names them.
    """
    out: StateDict = {}
    for key, tensor in state.items():
        fused = _FUSED.fullmatch(key)
        if fused and tensor.ndim and tensor.shape[0] % 3 == 0:
            layer, kind = fused.groups()
            for name, third in zip("qkv", tensor.chunk(3), strict=True):
                out[f"text_model.encoder.layers.{layer}.self_attn.{name}_proj.{kind}"] = third
        elif key == "text_projection" and tensor.ndim == 2:
            out["text_projection.weight"] = tensor.T
        else:
            out[_renamed(key, _OPEN_CLIP_RENAMES)] = tensor
    return out


def clip_to_open_clip(state: Mapping[str, Tensor]) -> StateDict:
    """The reverse of ``clip_from_open_clip``; q, k, v are joined, hence copied."""
    out: StateDict = {}
    for key, tensor in state.items():
        layer = re.fullmatch(r"text_model\.encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", key)
        if key == "text_projection.weight":
            out["text_projection"] = tensor.T
        elif layer is None:
            out[_OUTER_NAMES.get(key, key)] = tensor
        elif layer[2] == "self_attn.q_proj":
            parts = [state[key.replace("q_proj", f"{name}_proj")] for name in "qkv"]
            out[f"transformer.resblocks.{layer[1]}.attn.in_proj_{layer[3]}"] = torch.cat(parts)
        elif layer[2] not in ("self_attn.k_proj", "self_attn.v_proj"):
            out[f"transformer.resblocks.{layer[1]}.{_LAYER_NAMES[layer[2]]}.{layer[3]}"] = tensor
    return out


def _renamed(key: str, table: Sequence[tuple[str, str]]) -> str:
    for pattern, replacement in table:
        if match := re.fullmatch(pattern, key):
            return match.expand(replacement)
    return key
