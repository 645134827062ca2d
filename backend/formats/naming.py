"""A header whose parts are in diffusers naming, as if it were in ours, so that detection and measuring know one naming.

Only names change, and the shapes that differ with them: q, k and v of an MMDiT become one matrix, the matrices of a
VAE's attention 1x1 convolutions. A network with a layer that has no counterpart is left as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from backend.formats.configs import Layout
from backend.formats.diffusers_names import is_vae_attention, mmdit_fused, mmdit_names, unet_names, vae_names
from backend.formats.layout import DENOISER, OTHER_PREFIXES, VAE, is_nuisance, part_tensors
from backend.formats.measure import Tensors
from backend.formats.reader import Header, TensorInfo

_DENOISER_PREFIXES = ("", DENOISER, *(prefix for prefix in OTHER_PREFIXES["denoiser"] if prefix))
_VAE_PREFIXES = ("", VAE, *OTHER_PREFIXES["vae"])
_QUANTISED = ("scale_weight", "scale_input", "weight_scale", "comfy_quant", "scaled_fp8")  # ends of keys beside weights


@dataclass(frozen=True)
class _Naming:
    """A network in diffusers naming: keys that it has for sure, where it may lie, and its tensors in ours."""

    keys: tuple[str, ...]
    prefixes: Sequence[str]
    renamed: Callable[[Tensors], dict[str, TensorInfo]]


def in_our_names(header: Header) -> tuple[Header, Mapping[str, Layout]]:
    """The header with every part in our naming, and the layout of each prefix whose part was in another."""
    tensors = dict(header.tensors)
    layouts: dict[str, Layout] = {}
    for naming in _NAMINGS:
        for prefix in naming.prefixes:
            if not all(prefix + key in tensors for key in naming.keys):
                continue
            part = part_tensors(tensors, prefix)
            ours = naming.renamed(part)
            if not ours:
                continue
            for key in part:
                del tensors[prefix + key]
            tensors |= {prefix + key: info for key, info in ours.items()}
            layouts[prefix] = "diffusers"
    return (replace(header, tensors=tensors), layouts) if layouts else (header, layouts)


def _unet(part: Tensors) -> dict[str, TensorInfo]:
    return _by_name(part, unet_names(part), ())


def _mmdit(part: Tensors) -> dict[str, TensorInfo]:
    fused = mmdit_fused(part)
    joined = {key for keys in fused.values() for key in keys}
    out = _by_name(part, {key: ours for key, ours in mmdit_names(part).items() if key not in joined}, joined)
    if out:
        for ours, keys in fused.items():
            q, k, v = (part[key] for key in keys)
            rows = sum(info.shape[0] if info.shape else 0 for info in (q, k, v))
            out[ours] = replace(q, shape=(rows, *q.shape[1:]))
    return out


def _vae(part: Tensors) -> dict[str, TensorInfo]:
    square = {
        key: replace(info, shape=(*info.shape, 1, 1)) if is_vae_attention(key) and len(info.shape) == 2 else info
        for key, info in part.items()
    }
    return _by_name(square, vae_names(part), ())


def _by_name(part: Tensors, names: Mapping[str, str], apart: Iterable[str]) -> dict[str, TensorInfo]:
    """The tensors by their new names; empty if a layer has none: then it is another network that looks alike."""
    same = {key for key, ours in names.items() if key == ours and key not in _SAME_IN_BOTH}
    if any(not is_nuisance(key) and key.rpartition(".")[2] not in _QUANTISED for key in same.difference(apart)):
        return {}
    return {ours: part[key] for key, ours in names.items()}


#: Layers that both namings call alike.
_SAME_IN_BOTH = frozenset(
    f"{layer}.{kind}"
    for kind in ("weight", "bias")
    for layer in (
        "quant_conv", "post_quant_conv", "encoder.conv_in", "encoder.conv_out", "decoder.conv_in", "decoder.conv_out",
        "context_embedder",
    )
)  # fmt: skip

_NAMINGS: Sequence[_Naming] = (
    _Naming(
        ("conv_in.weight", "down_blocks.0.resnets.0.conv1.weight", "up_blocks.0.resnets.0.conv1.weight",
         "time_embedding.linear_1.weight", "conv_out.weight"),
        _DENOISER_PREFIXES, _unet,
    ),
    _Naming(
        ("pos_embed.proj.weight", "transformer_blocks.0.attn.add_q_proj.weight", "norm_out.linear.weight"),
        _DENOISER_PREFIXES, _mmdit,
    ),
    _Naming(
        ("encoder.conv_in.weight", "encoder.down_blocks.0.resnets.0.conv1.weight", "decoder.conv_in.weight",
         "decoder.mid_block.resnets.0.conv1.weight"),
        _VAE_PREFIXES, _vae,
    ),
)  # fmt: skip
