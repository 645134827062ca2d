"""How weights move: Muon for matrices and AdamW for the rest, a rate that follows the clock, averaged weights."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import cast

import torch
from torch import Tensor, nn


def orthogonalised(update: Tensor) -> Tensor:
    """The nearest semi-orthogonal matrices of a batch, (N, rows, columns), roughly: singular values go to about 1.

    Source: Jordan et al. 2024, "Muon", kellerjordan.github.io/posts/muon (quintic Newton-Schulz iteration, 5 steps).
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = update.bfloat16()
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).float()


class Muon(torch.optim.Optimizer):
    """Momentum whose update of every matrix is orthogonalised; convolutions count as (out, in * h * w) matrices.

    Matrices of one shape are handled as one batch. ``lr`` is in AdamW's units: the update has the root mean square
    that AdamW's usually has (Liu et al. 2025, arXiv:2502.16982, section 2.2).
    """

    def __init__(
        self, params: Iterable[nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # no line search here
        """Move every parameter that has a gradient."""
        del closure
        for group in self.param_groups:
            shapes: dict[tuple[int, int], list[nn.Parameter]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    shapes.setdefault((parameter.shape[0], parameter[0].numel()), []).append(parameter)
            for shape, parameters in shapes.items():
                self._step_shape(parameters, shape, group)

    def _step_shape(self, parameters: list[nn.Parameter], shape: tuple[int, int], group: dict) -> None:
        momentum, lr = group["momentum"], group["lr"]
        updates = []
        for parameter in parameters:
            state = self.state[parameter]
            buffer = state.setdefault("momentum", torch.zeros_like(parameter))
            gradient = cast("Tensor", parameter.grad)  # parameters without one are left out above
            buffer.lerp_(gradient, 1.0 - momentum)
            updates.append(gradient.lerp(buffer, momentum).reshape(shape))
        steps = orthogonalised(torch.stack(updates)) * (0.2 * math.sqrt(max(shape)))
        for parameter, step in zip(parameters, steps, strict=True):
            parameter.mul_(1.0 - lr * group["weight_decay"])
            parameter.add_(step.view_as(parameter), alpha=-lr)


class Optimisers:
    """Muon for the inner matrices of a network, AdamW for its edges, embeddings, norms and biases."""

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        *,
        lr: float,
        edges: tuple[str, ...],
        muon: bool = True,
        weight_decay: float = 0.01,
    ) -> None:
        matrices: list[nn.Parameter] = []
        rest: list[nn.Parameter] = []
        for module_name, module in modules.items():
            for name, parameter in module.named_parameters():
                full = f"{module_name}.{name}"
                inner = muon and parameter.ndim >= 2 and not any(part in full for part in edges)
                (matrices if inner else rest).append(parameter)
        self.parameters = [*matrices, *rest]
        self._lr = lr
        self._optimisers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(rest, lr=lr, betas=(0.9, 0.99), weight_decay=weight_decay, fused=True)
        ]
        if matrices:
            self._optimisers.append(Muon(matrices, lr=lr, weight_decay=weight_decay))

    def step(self, factor: float) -> float:
        """One step at ``factor`` times the base rate, gradients clipped to norm 1; returns their norm before."""
        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters, 1.0))
        for optimiser in self._optimisers:
            for group in optimiser.param_groups:
                group["lr"] = self._lr * factor
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        return norm

    def state(self) -> dict[str, Tensor]:
        """What they remember, as ``optimiser.parameter.name``."""
        return {
            f"{number}.{index}.{name}": value
            for number, optimiser in enumerate(self._optimisers)
            for index, values in optimiser.state_dict()["state"].items()
            for name, value in values.items()
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Remember what ``state`` gave, of optimisers over the same parameters."""
        for number, optimiser in enumerate(self._optimisers):
            values: dict[int, dict[str, Tensor]] = {}
            for full, value in state.items():
                owner, index, name = full.split(".", 2)
                if int(owner) == number:
                    values.setdefault(int(index), {})[name] = value
            optimiser.load_state_dict({**optimiser.state_dict(), "state": values})


def rate_factor(step: int, progress: float, *, warmup: int = 50, decay_from: float = 0.6, floor: float = 0.02) -> float:
    """A short warm-up, a level stretch, then a cosine down to ``floor``.

    Args:
        progress: share of the time that is to be spent, 0 to 1.
    """
    if progress < decay_from:
        return min(1.0, (step + 1) / warmup)
    t = min(1.0, (progress - decay_from) / (1.0 - decay_from))
    return floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * t))


class Average:
    """Exponential moving average of weights, in float32; young averages follow faster.

    Source: Karras et al. 2024, arXiv:2312.02696, section 3.1 (an average length that grows with training).
    """

    def __init__(self, modules: Mapping[str, nn.Module], *, half_life_share: float = 0.06, longest: float = 0.9995):
        self._modules = modules
        self._share = half_life_share
        self._longest = longest
        self.weights = {
            part: {name: value.detach().float().clone() for name, value in module.state_dict().items()}
            for part, module in modules.items()
        }

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move towards the present weights."""
        decay = min(self._longest, 0.5 ** (1.0 / max(1.0, self._share * step)))
        for part, module in self._modules.items():
            state = module.state_dict()
            floats = [name for name, value in state.items() if value.is_floating_point()]
            for name in floats:
                self.weights[part][name].lerp_(state[name].float(), 1.0 - decay)
