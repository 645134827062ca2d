"""The families: what makes a denoiser one of each, which text encoders fit it, and its published constants.

One row a family. The key says which network it is, ``when`` which family of that network; relations of widths, not
absolute sizes, so that narrow checkpoints of the same build are of the same family. U-Nets that only look alike have
rows of their own. Where the parts lie is in ``layout.py``, what the variants are in ``variants.py``.

Sources: generative-models configs, ComfyUI ``model_detection.py`` (FORMATS.md 2.1, 2.2, 3).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from backend.formats import constants, measure
from backend.formats.configs import (
    CheckpointInfo,
    CLIPConfig,
    Defaults,
    Family,
    LatentConstants,
    MMDiTConfig,
    Part,
    UNetConfig,
)
from backend.formats.measure import Tensors

_SINUSOID = 256  # width of each size number beside the pooled vector of SDXL
_SIZES = 6 * _SINUSOID  # original height and width, crop top and left, target height and width
_REFINER_SIZES = 5 * _SINUSOID  # the aesthetic score stands for the target size
_VIDEO_BLOCK = "input_blocks.1.0.time_stack"
_KOLORS_POOLED = 4096  # ChatGLM's

Denoiser = UNetConfig | MMDiTConfig


@dataclass(frozen=True)
class Network:
    """A kind of denoiser: a key that only it has, how its config is measured, and the header field that overrides."""

    key: str
    measured: Callable[[Tensors], Denoiser]
    field: str


@dataclass(frozen=True)
class FamilyRow:
    """A family of checkpoints.

    Attributes:
        when: whether a denoiser of this network is of this family.
        required: text encoders that a prompt needs (what else ``layout.PREFIXES`` names is optional).
        fits: whether the encoders, of which all required ones are there, give what the denoiser takes.
        defaults: for variants that have none of their own; ``predictions.py`` has those of other kinds of output.
        size_multiple: picture sides are multiples of it, in pixels.
    """

    name: Family
    network: Network
    when: Callable[[Any], bool]
    required: tuple[Part, ...]
    fits: Callable[[Any, Any], bool]
    latent: LatentConstants
    defaults: Defaults
    size_multiple: int


@dataclass(frozen=True)
class ForeignUNet:
    """A U-Net of a family that is not run at all; ``when`` sees its config and its tensors."""

    kind: str
    when: Callable[[UNetConfig, Tensors], bool]


def _pooled(clip: CLIPConfig) -> int:
    return clip.projection_dim or clip.width


def _fits_sdxl(denoiser: UNetConfig, encoders: Mapping[Part, CLIPConfig]) -> bool:
    clip_l, clip_g = encoders["clip_l"], encoders["clip_g"]
    tokens = clip_l.width + clip_g.width
    return denoiser.context_dim == tokens and denoiser.label_dim == _pooled(clip_g) + _SIZES


def _fits_refiner(denoiser: UNetConfig, encoders: Mapping[Part, CLIPConfig]) -> bool:
    clip_g = encoders["clip_g"]
    return denoiser.context_dim == clip_g.width and denoiser.label_dim == _pooled(clip_g) + _REFINER_SIZES


def _fits_sd3(denoiser: MMDiTConfig, encoders: Mapping[Part, Any]) -> bool:
    clip_l, clip_g, t5 = encoders["clip_l"], encoders["clip_g"], encoders.get("t5")
    fits = denoiser.context_dim >= clip_l.width + clip_g.width
    fits = fits and denoiser.pooled_dim == clip_l.width + _pooled(clip_g)
    return fits and (t5 is None or t5.width == denoiser.context_dim)


_UNET = Network("input_blocks.0.0.weight", measure.unet_config, "easel.unet")
_MMDIT = Network("joint_blocks.0.x_block.attn.qkv.weight", measure.mmdit_config, "easel.mmdit")
NETWORKS: Sequence[Network] = (_UNET, _MMDIT)

#: The first row of the network that holds speaks.
FAMILIES: Sequence[FamilyRow] = (
    FamilyRow(
        "sdxl_refiner", _UNET,
        when=lambda c: c.label_dim is not None and c.label_dim == c.context_dim + _REFINER_SIZES,
        required=("clip_g",), fits=_fits_refiner,
        latent=constants.SDXL_LATENT, defaults=constants.SDXL_DEFAULTS, size_multiple=8,
    ),
    FamilyRow(
        "sdxl", _UNET,
        when=lambda c: c.label_dim is not None,
        required=("clip_l", "clip_g"), fits=_fits_sdxl,
        latent=constants.SDXL_LATENT, defaults=constants.SDXL_DEFAULTS, size_multiple=8,
    ),
    FamilyRow(
        "sd1", _UNET,
        when=lambda c: not c.linear_projection,
        required=("clip_l",), fits=lambda denoiser, encoders: denoiser.context_dim == encoders["clip_l"].width,
        latent=constants.SD1_LATENT, defaults=constants.SD1_DEFAULTS, size_multiple=8,
    ),
    FamilyRow(
        "sd2", _UNET,
        when=lambda c: c.linear_projection,
        required=("clip_h",), fits=lambda denoiser, encoders: denoiser.context_dim == encoders["clip_h"].width,
        latent=constants.SD1_LATENT, defaults=constants.SD2_DEFAULTS, size_multiple=8,
    ),
    FamilyRow(
        "sd3", _MMDIT,
        when=lambda _: True,
        required=("clip_l", "clip_g"), fits=_fits_sd3,
        latent=constants.SD3_LATENT, defaults=constants.SD35_LARGE_DEFAULTS, size_multiple=16,
    ),
)  # fmt: skip

#: Looked at before the families.
FOREIGN_UNETS: Sequence[ForeignUNet] = (
    ForeignUNet("Stable Video Diffusion checkpoint", lambda _, t: f"{_VIDEO_BLOCK}.in_layers.0.weight" in t),
    ForeignUNet("SD2 unCLIP checkpoint", lambda c, _: c.label_dim is not None and c.context_dim == 1024),
    ForeignUNet("SD x4 upscaler checkpoint", lambda _, t: "label_emb.weight" in t),
    ForeignUNet("Kolors checkpoint", lambda c, _: c.label_dim == _KOLORS_POOLED + _SIZES),
)


def missing_encoders(info: CheckpointInfo) -> list[Part]:
    """The text encoders that a prompt needs and that the checkpoint does not have."""
    row = next(row for row in FAMILIES if row.name == info.family)
    return [part for part in row.required if part not in info.sources]
