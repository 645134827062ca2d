"""What the trainers minimise."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def reconstruction(image: Tensor, target: Tensor) -> Tensor:
    """L1 of pixels, of their differences to the neighbours (edges), and of a low-passed picture (colours).

    Args:
        image, target: (B, 3, H, W) in [-1, 1], float32.
    """
    error = image - target
    edges = (error[..., 1:] - error[..., :-1]).abs().mean() + (error[..., 1:, :] - error[..., :-1, :]).abs().mean()
    return error.abs().mean() + edges + F.avg_pool2d(error, 8).abs().mean()


def kl_to_normal(mean: Tensor, logvar: Tensor) -> Tensor:
    """Mean over all latent values of KL(N(mean, exp(logvar)) || N(0, 1)).

    Source: Kingma and Welling 2014, arXiv:1312.6114, appendix B.
    """
    mean, logvar = mean.float(), logvar.float()
    return 0.5 * (mean.square() + logvar.exp() - 1.0 - logvar).mean()


def min_snr_weight(sigma: Tensor, gamma: float = 5.0) -> Tensor:
    """Weight of the squared error of a noise prediction: min(SNR, gamma) / SNR, with SNR = 1 / sigma^2.

    Source: Hang et al. 2023, arXiv:2303.09556, section 3.4.
    """
    return (gamma * sigma.square()).clamp(max=1.0)


def logit_normal_sigmas(count: int, shift: float, generator: torch.Generator) -> Tensor:
    """Noise levels for rectified flow, (count,) in (0, 1): sigmoid of a normal draw, then the resolution shift.

    Source: Esser et al. 2024, arXiv:2403.03206, equations 19 and 23.
    """
    sigma = torch.randn(count, generator=generator).sigmoid()
    return shift * sigma / (1.0 + (shift - 1.0) * sigma)
