"""Hints that keep the picture's tones: as it is, inverted, its brightness alone, blurred, coarse, or with a hole."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from backend.api import Parameters, choice, number

_SRGB_LINEAR = 0.04045  # below it sRGB is a straight line (IEC 61966-2-1)
_LUMINANCE = (0.212671, 0.715160, 0.072169)  # of linear sRGB, as OpenCV has them
_LAB_STRAIGHT = 216 / 24389  # below it CIE's lightness is a straight line
_LAB_SLOPE = 24389 / 27


class BlurParameters(Parameters):
    """How far it is blurred."""

    sigma: float = number(9.0, low=0.01, high=64.0, step=0.1, label="Blur", help="Of the Gaussian, in pixels.")


class TileParameters(Parameters):
    """How coarse the picture becomes."""

    rate: float = number(1.0, low=1.0, high=8.0, step=0.01, label="Down-sampling rate", help="1: as it is.")


class RecolorParameters(Parameters):
    """What is kept of the picture."""

    keeps: Literal["luminance", "intensity"] = choice(
        "luminance", label="Keeps", help="Luminance: CIE's lightness. Intensity: the strongest colour."
    )
    gamma: float = number(1.0, low=0.1, high=2.0, step=0.01, label="Gamma", help="Above 1: darker.")


class InpaintParameters(Parameters):
    """What stands where the picture is repainted."""

    fill: Literal["minus one", "black", "white", "grey"] = choice(
        "minus one",
        label="Under the mask",
        help="Minus one is for ControlNets for inpainting; Union networks, T2I-Adapters and SD3.5's see black.",
    )


def unchanged(picture: Tensor, parameters: Parameters, mask: Tensor | None = None) -> Tensor:
    """The picture itself, for one that already is a hint."""
    del parameters, mask
    return picture


def inverted(picture: Tensor, parameters: Parameters, mask: Tensor | None = None) -> Tensor:
    """Black for white: drawings on paper become the white lines that networks know."""
    del parameters, mask
    return 1 - picture


def blurred(picture: Tensor, parameters: BlurParameters, mask: Tensor | None = None) -> Tensor:
    """Blurred by a Gaussian; the picture goes on mirrored beyond its border."""
    del mask
    sigma = parameters.sigma
    return torch.from_numpy(ndimage.gaussian_filter(picture.numpy(), (0, sigma, sigma), mode="mirror")).clamp(0, 1)


def tiled(picture: Tensor, parameters: TileParameters, mask: Tensor | None = None) -> Tensor:
    """Made smaller by averages and larger again, (3, H, W) as before."""
    del mask
    height, width = picture.shape[1:]
    smaller = (max(1, round(height / parameters.rate)), max(1, round(width / parameters.rate)))
    if smaller == (height, width):
        return picture
    small = F.interpolate(picture[None], smaller, mode="area")
    return F.interpolate(small, (height, width), mode="bicubic", align_corners=False)[0].clamp(0, 1)


def brightness(picture: Tensor, parameters: RecolorParameters, mask: Tensor | None = None) -> Tensor:
    """Greys, (1, H, W), for networks that colour."""
    del mask
    grey = lightness_of(picture) if parameters.keeps == "luminance" else picture.amax(dim=0, keepdim=True)
    return grey.clamp(0, 1) ** parameters.gamma


def holed(picture: Tensor, parameters: InpaintParameters, mask: Tensor | None = None) -> Tensor:
    """The picture, with a fill where the mask is over a half."""
    if mask is None:
        return picture
    fill = {"minus one": -1.0, "black": 0.0, "white": 1.0, "grey": 0.5}[parameters.fill]
    return torch.where(mask > 0.5, fill, picture)


def lightness_of(picture: Tensor) -> Tensor:
    """CIE 1976 L* of sRGB, (1, H, W), 0 to 1."""
    linear = torch.where(picture <= _SRGB_LINEAR, picture / 12.92, ((picture + 0.055) / 1.055) ** 2.4)
    y = sum(weight * channel for weight, channel in zip(_LUMINANCE, linear, strict=True))
    assert isinstance(y, Tensor)  # noqa: S101 - three channels
    root = y.clamp(min=0) ** (1 / 3)
    return (torch.where(y > _LAB_STRAIGHT, 116 * root - 16, _LAB_SLOPE * y) / 100)[None]


def intensity_of(picture: Tensor) -> Tensor:
    """The mean of the colours, (1, H, W)."""
    return picture.mean(dim=0, keepdim=True)
