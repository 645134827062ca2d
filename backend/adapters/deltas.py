"""What each kind of adapter adds to a weight: the papers' formulas, one function a kind, in float32.

A function takes the layer's own weight W, the adapter's tensors by role (``roles``), their scale (alpha / rank, told in
``kinds``) and the user's strength, and gives what is to be added to W; it may not change W. Shapes: ``out`` and ``in``
are W's first two sizes, k those of a convolution's window, r the rank.
Sources: FORMATS.md 4.2; the papers named below; orientations and names as in LyCORIS 4.1.3.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

Tensors = Mapping[str, Tensor]


def lora(weight: Tensor, t: Tensors, scale: float, strength: float) -> Tensor:
    """up (out, r) times down (r, in, k...), with ``mid`` (r, r, k...) between them where the window is factored too.

    Source: Hu et al. 2021, arXiv:2106.09685; the Tucker form of convolutions: Yeh et al. 2023, arXiv:2309.14859.
    """
    up, down = t["up"].flatten(1) * (scale * strength), t["down"]
    if "mid" in t:
        product = torch.einsum("mn...,im,nj->ij...", t["mid"], up, down.flatten(1))
    else:
        product = (up @ down.flatten(1)).reshape(up.shape[0], *down.shape[1:])
    return as_shaped(product, weight)


def loha(weight: Tensor, t: Tensors, scale: float, strength: float) -> Tensor:
    """The elementwise product of two low-rank matrices, each with a core ``t`` (r, r, k...) where there is one.

    Source: Hyeon-Woo et al. 2021 (FedPara), arXiv:2108.06098; Yeh et al. 2023.
    """
    product = _hada_half(t, "1") * _hada_half(t, "2")
    if product.ndim == 2 and weight.ndim > 2:  # (out, in * k * k): without a core the window lies within the columns
        product = product.reshape(product.shape[0], -1, *weight.shape[2:])
    return as_shaped(product, weight) * (scale * strength)


def _hada_half(t: Tensors, number: str) -> Tensor:
    a, b = t[f"hada_w{number}_a"], t[f"hada_w{number}_b"]
    core = t.get(f"hada_t{number}")
    return a @ b if core is None else torch.einsum("ij...,ip,jq->pq...", core, a, b)


def lokr(weight: Tensor, t: Tensors, scale: float, strength: float) -> Tensor:
    """The Kronecker product of w1 (a, c) and w2 (out / a, in / c, k...), either of them low-rank itself.

    Source: Yeh et al. 2023, arXiv:2309.14859, section 3.
    """
    window = weight.shape[2:]
    w1 = t["lokr_w1"] if "lokr_w1" in t else t["lokr_w1_a"] @ t["lokr_w1_b"]
    if "lokr_w2" in t:
        w2 = t["lokr_w2"]
    elif "lokr_t2" in t:
        w2 = torch.einsum("ij...,ip,jq->pq...", t["lokr_t2"], t["lokr_w2_a"], t["lokr_w2_b"])
    else:
        w2 = t["lokr_w2_a"] @ t["lokr_w2_b"].flatten(1)
    if w1.ndim != 2:
        raise ValueError(f"lokr_w1 has {w1.ndim} axes instead of 2")
    w2 = w2.reshape(w2.shape[0], -1, *window)
    w1 = w1.reshape(*w1.shape, *(1 for _ in window))
    # kron reads both as they lie in memory; an einsum's result may lie otherwise.
    return as_shaped(torch.kron(w1.contiguous(), w2.contiguous()), weight) * (scale * strength)


def glora(weight: Tensor, t: Tensors, scale: float, strength: float) -> Tensor:
    """W times a1 a2 (in, in) plus b1 b2 (out, in, k...); early files have each pair the other way round.

    Source: Chavan et al. 2023, arXiv:2306.07967, equation 9 without its D and E.
    """
    a1, a2, b1, b2 = (t[name].flatten(1) if name != "b2" else t[name] for name in ("a1", "a2", "b1", "b2"))
    if glora_is_early(t):
        a1, a2, b1, b2 = a2, a1, t["b2"].flatten(1), t["b1"]
    inputs = torch.einsum("oi...,ir,rj->oj...", weight, a1, a2)
    if "bm" in t:
        own = torch.einsum("mn...,im,nj->ij...", t["bm"], b1, b2.flatten(1))
    else:
        own = (b1 @ b2.flatten(1)).reshape(b1.shape[0], *b2.shape[1:])
    return (inputs + as_shaped(own, weight)) * (scale * strength)


def glora_is_early(t: Tensors) -> bool:
    """Whether the rank is the first size of a1 and b1 rather than the second."""
    now = t["a1"].shape[1] == t["a2"].shape[0] == t["b1"].shape[1] == t["b2"].shape[0]
    early = t["a1"].shape[0] == t["a2"].shape[1] == t["b1"].shape[0] == t["b2"].shape[1]
    return early and not now


def full(weight: Tensor, t: Tensors, scale: float, strength: float) -> Tensor:  # noqa: ARG001  # all kinds take the same
    """A whole difference, stored as it is: a layer's, a bias's or a norm's."""
    (difference,) = t.values()
    return as_shaped(difference, weight) * strength


def replacement(weight: Tensor, t: Tensors, scale: float, strength: float) -> Tensor:  # noqa: ARG001
    """A weight in place of W; below strength 1 a mixture of both."""
    return (as_shaped(t["set_weight"], weight) - weight) * strength


def bias_of_lora(weight: Tensor, t: Tensors, scale: float, strength: float) -> Tensor:
    """PEFT's ``lora_bias``: the bias of the up projection, which the scale multiplies as it does the product."""
    return as_shaped(t["up_bias"], weight) * (scale * strength)


def oft(weight: Tensor, t: Tensors, scale: float, strength: float) -> Tensor:
    """Blocks of rows rotated, then each row rescaled where ``rescale`` (out, 1...) is there.

    ``scale`` is the constraint, per row of W: the most that the norm of all generators may be; 0: none.
    Source: Qiu et al. 2023, arXiv:2306.07280; transposed as LyCORIS and kohya store it.
    """
    blocks = t["oft_blocks"]  # (n, b, b)
    rows = weight.reshape(blocks.shape[0], blocks.shape[1], *weight.shape[1:])
    rotation = _cayley(blocks, scale * weight.shape[0])
    turned = torch.einsum("knm,kn...->km...", rotation, rows).reshape(weight.shape)
    if "rescale" in t:
        turned = turned * t["rescale"]
    return (turned - weight) * strength


def oft_of_peft(weight: Tensor, t: Tensors, scale: float, strength: float) -> Tensor:  # noqa: ARG001
    """Blocks of inputs rotated, as PEFT and OneTrainer store it: one triangle of each generator Q, or of one for all.

    The rotation is what PEFT computes by default, the first five terms of (I + Q)(I - Q)^-1's series; the file does not
    say whether its trainer used the whole one, which for generators as small as trained ones is all but the same.
    Source: Qiu et al. 2025, arXiv:2506.19847; PEFT 0.21.2, ``OFTRotationModule``.
    """
    triangles = t["oft_R"]  # (n or 1, b (b - 1) / 2)
    size = (1 + math.isqrt(1 + 8 * triangles.shape[1])) // 2
    rows, columns = torch.triu_indices(size, size, 1, device=weight.device)
    q = torch.zeros(triangles.shape[0], size, size, device=weight.device)
    q[:, rows, columns] = triangles
    q = q - q.transpose(1, 2)
    squared = q @ q
    rotation = torch.eye(size, device=weight.device) + 2 * (q + squared + squared @ q) + squared @ squared
    inputs = weight.flatten(1).unflatten(1, (-1, size))  # (out, n, b)
    turned = torch.einsum("onb,ncb->onc", inputs, rotation.expand(inputs.shape[1], -1, -1))
    return (turned.reshape(weight.shape) - weight) * strength


def boft(weight: Tensor, t: Tensors, scale: float, strength: float) -> Tensor:
    """Rows rotated in stages, each mixing rows twice as far apart; strength turns every stage less far.

    Source: Liu et al. 2023, arXiv:2311.06243, section 4; strength as LyCORIS has it.
    """
    blocks = t["oft_blocks"]  # (stages, n, b, b)
    stages, _, size, _ = blocks.shape
    rotations = _cayley(blocks, scale * weight.shape[0])
    identity = torch.eye(size, device=weight.device)
    h = weight
    for stage in range(stages):
        distance = 2**stage * (size // 2)
        # (out, ...) -> (groups, 2, distance, ...) -> pairs of rows that lie ``distance`` apart stand side by side
        h = h.unflatten(0, (-1, 2, distance)).transpose(1, 2).flatten(0, 2).unflatten(0, (-1, size))
        turn = torch.lerp(identity, rotations[stage], strength)
        h = torch.einsum("bij,bj...->bi...", turn, h)
        h = h.flatten(0, 1).unflatten(0, (-1, distance, 2)).transpose(1, 2).flatten(0, 2)
    if "rescale" in t:
        h = h * (1 + (t["rescale"] - 1) * strength)
    return h - weight


def _cayley(blocks: Tensor, constraint: float) -> Tensor:
    """(..., b, b) -> rotations (I + Q)(I - Q)^-1 of Q = B - B^T, whose norm over all blocks is bounded (0: not)."""
    q = blocks - blocks.transpose(-1, -2)
    if constraint > 0:
        q = q * (constraint / (q.norm() + 1e-8)).clamp(max=1.0)
    identity = torch.eye(blocks.shape[-1], device=blocks.device)
    return torch.linalg.solve(identity - q, identity + q)  # both are functions of Q, so their order is free


def ia3(weight: Tensor, t: Tensors, scale: float, strength: float) -> Tensor:  # noqa: ARG001
    """W's inputs or outputs scaled by 1 + ``weight``.

    Source: Liu et al. 2022, arXiv:2205.05638; offset from 1 as LyCORIS stores it.
    """
    axis = 1 if t["on_input"].item() else 0
    return weight * _along(t["weight"], weight, axis) * strength


def ia3_of_peft(weight: Tensor, t: Tensors, scale: float, strength: float) -> Tensor:  # noqa: ARG001
    """W scaled by ``ia3_l``: (out, 1) for its outputs, (1, in) for its inputs."""
    factors = t["ia3_l"]
    axis = 0 if factors.shape == (weight.shape[0], 1) else 1
    return weight * (_along(factors, weight, axis) - 1) * strength


def dora(weight: Tensor, delta: Tensor, magnitude: Tensor, strength: float, axis: int) -> Tensor:
    """W + delta with every row (axis 0) or column (axis 1) brought to a trained length, less W.

    The length is that of W + delta, as the paper has it (FORMATS.md, section 1, row 12: some programs take W's). A
    strength other than 1 works as in LyCORIS: delta is added whole, and (magnitude / length - 1) is multiplied.

    Args:
        delta: what the low-rank part adds at strength 1.
        magnitude: one trained length for each row or column, of any shape with so many numbers.
    Source: Liu et al. 2024, arXiv:2402.09353, equation 5.
    """
    merged = weight + delta
    others = [dim for dim in range(weight.ndim) if dim != axis]
    length = torch.linalg.vector_norm(merged, dim=others, keepdim=True) + torch.finfo(torch.float32).eps
    return merged * (1 + strength * (_along(magnitude, weight, axis) / length - 1)) - weight


def as_shaped(change: Tensor, weight: Tensor) -> Tensor:
    """A change in the shape of its weight; the two may differ in sizes of 1 at the end, as linear layers and 1x1
    convolutions do.

    Raises:
        ValueError: if it is the change of another layer.
    """
    if _trimmed(change.shape) != _trimmed(weight.shape):
        raise ValueError(f"{list(change.shape)} instead of {list(weight.shape)}")
    return change.reshape(weight.shape)


def _trimmed(shape: torch.Size) -> list[int]:
    sizes = list(shape)
    while sizes and sizes[-1] == 1:
        sizes.pop()
    return sizes


def _along(numbers: Tensor, weight: Tensor, axis: int) -> Tensor:
    """As many numbers as W is long on ``axis``, shaped so that they multiply it there."""
    if numbers.numel() != weight.shape[axis]:
        raise ValueError(f"{numbers.numel()} numbers for {weight.shape[axis]} {('rows', 'columns')[axis]}")
    return numbers.reshape([-1 if dim == axis else 1 for dim in range(weight.ndim)])
