"""HRA adapters: each weight's rows are mirrored by a chain of Householder reflections.

A file cannot tell whether its vectors were made orthogonal in training (PEFT's ``apply_GS``, off unless asked for), and
they are taken as they are.
Source: Yuan, Liu and Xu 2024, arXiv:2405.17484; names and order as in PEFT, ``tuners/hra/layer.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from backend.api import AdapterFormatSpec, AdapterModule, hookimpl

ENDING = ".hra_u"  # (inputs, r): a column is the normal of one mirror; a convolution's inputs are channels x window


def delta(weight: Tensor, t: Mapping[str, Tensor], strength: float) -> Tensor:
    """``strength`` times what the reflections, the first column first, change in a weight (out, in, ...)."""
    normals = t["u"] / t["u"].norm(dim=0)  # (in, r)
    rows = weight.reshape(weight.shape[0], -1)
    if normals.shape[0] != rows.shape[1]:
        raise ValueError(f"reflections of {normals.shape[0]} inputs for a layer of {rows.shape[1]}")
    mirrored = rows
    for normal in normals.unbind(dim=1):
        mirrored = mirrored - 2 * (mirrored @ normal)[:, None] * normal
    return strength * (mirrored - rows).reshape(weight.shape)


def modules(shapes: Mapping[str, tuple[int, ...]], metadata: Mapping[str, str]) -> list[AdapterModule]:
    """A module for each layer that has normals."""
    found = [key for key, shape in shapes.items() if key.endswith(ENDING) and len(shape) == 2]
    return [AdapterModule(key.removesuffix(ENDING), {"u": key}, delta) for key in found]


@hookimpl
def register_adapter_formats() -> Sequence[AdapterFormatSpec]:
    """One format."""
    return [AdapterFormatSpec("hra", "HRA", modules)]
