"""Small layers that several networks share, and how a network starts when it is trained from nothing."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backend.nn.stored import StoredLinear, plain_weight


def silu(x: Tensor) -> Tensor:
    """SiLU of a tensor that its caller has just made: it is overwritten where no gradient is needed."""
    return F.silu(x, inplace=not torch.is_grad_enabled())


def sinusoid(values: Tensor, dim: int) -> Tensor:
    """Embed numbers as [cos, sin] waves of falling frequency: (N,) -> (N, dim), float32.

    Args:
        values: timesteps (0 to 1000) or sizes in pixels.
        dim: even; the frequencies run from 1 down to nearly 1/10000.
    Source: Ho et al. 2020, arXiv:2006.11239, appendix B, with cosines first as in the published checkpoints' code.
    """
    half = dim // 2
    steps = torch.arange(half, dtype=torch.float32, device=values.device)
    frequencies = torch.exp(steps * (-math.log(10000.0) / half))
    angles = values.float()[:, None] * frequencies  # (N, half)
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class SiLU(nn.Module):
    """``silu`` as a layer, for places where the layer before has just made the tensor."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape, kept."""
        return silu(x)


def accumulate(fresh: Tensor, x: Tensor) -> Tensor:
    """The sum of a tensor that its caller has just made and another: into the first where no gradient is needed."""
    return fresh + x if torch.is_grad_enabled() else fresh.add_(x)


class Mlp(nn.Module):
    """Two linear layers with a tanh-approximated GELU between them (MMDiT's feed-forward part)."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) -> (..., dim)."""
        h = self.fc1(x)
        h = F.gelu(h, approximate="tanh")
        return self.fc2(h)


class GEGLU(nn.Module):
    """A linear layer whose one half is gated by the GELU of the other half.

    Source: Shazeer 2020, arXiv:2002.05202, equation 6 (the first half is the value, the second the gate).
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.proj = nn.Linear(dim, 2 * hidden)

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) -> (..., hidden)."""
        if torch.is_grad_enabled() or type(self.proj) not in (nn.Linear, StoredLinear):
            value, gate = self.proj(x).chunk(2, dim=-1)
            return value * F.gelu(gate)
        # Two products into tensors of their own: both are contiguous, and the rest happens in place.
        weight, bias = plain_weight(self.proj), self.proj.bias
        hidden = weight.shape[0] // 2
        gate = F.linear(x, weight[hidden:], bias[hidden:])
        gate = torch.ops.aten.gelu_(gate)
        return F.linear(x, weight[:hidden], bias[:hidden]).mul_(gate)


class FeedForward(nn.Module):
    """The feed-forward part of a U-Net transformer block: GEGLU, then back to the block's width."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        # net.1 is the published code's dropout: it holds no weights, only its place in the numbering.
        self.net = nn.ModuleList([GEGLU(dim, 4 * dim), nn.Identity(), nn.Linear(4 * dim, dim)])

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, dim) -> (B, T, dim)."""
        h = self.net[0](x)
        return self.net[2](h)


class Embedder(nn.Module):
    """Two linear layers with SiLU between them, for the timestep and the pooled vector of the MMDiT."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.SiLU(), nn.Linear(hidden, hidden))

    def forward(self, x: Tensor) -> Tensor:
        """(B, dim) -> (B, hidden)."""
        return self.mlp(x)


class StartsAtZero:
    """A mixin that names the submodules whose weights are zero before training.

    A block that adds its output to its input is then the identity at first.
    """

    zero_at_start: ClassVar[tuple[str, ...]] = ()


@torch.no_grad()
def initialise(network: nn.Module) -> None:
    """Fill a network's weights for training from nothing, drawing from torch's global random generator.

    Layers get torch's defaults; then a module with a method ``initialise_own`` fills what the paper starts differently;
    then every submodule named in a ``zero_at_start`` becomes zero.
    Source of the zeros: Dhariwal and Nichol 2021, arXiv:2105.05233 (the last convolution of each block), and Peebles
    and Xie 2023, arXiv:2212.09748, section 3.2 (AdaLN-Zero).
    """
    layers = (nn.Linear, nn.Conv2d, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
    for module in network.modules():
        if isinstance(module, layers):
            module.reset_parameters()
    for module in network.modules():
        initialise_own = getattr(module, "initialise_own", None)
        if initialise_own is not None:
            initialise_own()
    for module in network.modules():
        if isinstance(module, StartsAtZero):
            for name in module.zero_at_start:
                for parameter in module.get_submodule(name).parameters():
                    parameter.zero_()
