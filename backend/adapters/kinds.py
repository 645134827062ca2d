"""Which tensors make which kind of adapter, and what rank and alpha mean for it: one row a kind.

A ``Change`` is one module of an adapter file, ready to be added to a weight.
Sources: FORMATS.md 4.2 and section 1, rows 12 and 14.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from backend.adapters import deltas
from backend.adapters.deltas import Tensors

Parameter = Literal["weight", "bias"]


def _rank_of_lokr(t: Tensors) -> int | None:
    """None where both factors are full: alpha then says nothing."""
    return next((t[name].shape[0] for name in ("lokr_w2_b", "lokr_w1_b") if name in t), None)


def _rank_of_glora(t: Tensors) -> int:
    return t["a2"].shape[1] if deltas.glora_is_early(t) else t["a2"].shape[0]


@dataclass(frozen=True)
class Kind:
    """A kind of adapter.

    Attributes:
        name: as people call it.
        needs: of each group one alternative must be there whole.
        may: roles that may stand beside them.
        delta: the formula.
        rank: what alpha is divided by; None: alpha is no scale here.
        parameter: which of the layer's parameters changes.
    """

    name: str
    needs: Sequence[Sequence[Sequence[str]]]
    delta: Callable[[Tensor, Tensors, float, float], Tensor]
    may: Sequence[str] = ()
    rank: Callable[[Tensors], int | None] | None = None
    parameter: Parameter = "weight"
    fits: Callable[[Tensors], bool] = lambda _tensors: True

    @property
    def roles(self) -> frozenset[str]:
        """Every role that this kind reads."""
        return frozenset(role for group in self.needs for option in group for role in option) | frozenset(self.may)

    def chosen(self, tensors: Tensors) -> dict[str, Tensor] | None:
        """The tensors of this kind among a module's, or None where it is not whole."""
        whole = all(any(all(role in tensors for role in option) for option in group) for group in self.needs)
        if not whole or not self.fits(tensors):
            return None
        return {role: tensor for role, tensor in tensors.items() if role in self.roles}


_LORA = (("up", "down"),)
_DORA = ("dora_scale", "magnitude")

KINDS: Sequence[Kind] = (
    Kind("LoRA", (_LORA,), deltas.lora, may=("mid", "alpha", *_DORA), rank=lambda t: t["down"].shape[0]),
    Kind(
        "LoHa",
        ((("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"),),),
        deltas.loha,
        may=("hada_t1", "hada_t2", "alpha", *_DORA),
        rank=lambda t: t["hada_w1_b"].shape[0],
    ),
    Kind(
        "LoKr",
        ((("lokr_w1",), ("lokr_w1_a", "lokr_w1_b")), (("lokr_w2",), ("lokr_w2_a", "lokr_w2_b"))),
        deltas.lokr,
        may=("lokr_t2", "alpha", *_DORA),
        rank=_rank_of_lokr,
    ),
    Kind("GLoRA", ((("a1", "a2", "b1", "b2"),),), deltas.glora, may=("bm", "alpha"), rank=_rank_of_glora),
    Kind(
        "OFT", ((("oft_blocks",),),), deltas.oft, may=("rescale", "alpha"), fits=lambda t: t["oft_blocks"].ndim == 3
    ),
    Kind(
        "BOFT", ((("oft_blocks",),),), deltas.boft, may=("rescale", "alpha"), fits=lambda t: t["oft_blocks"].ndim == 4
    ),
    Kind("OFT", ((("oft_R",),),), deltas.oft_of_peft, may=_DORA),
    Kind("IA3", ((("weight", "on_input"),),), deltas.ia3),
    Kind("IA3", ((("ia3_l",),),), deltas.ia3_of_peft),
    Kind("full", ((("diff",),),), deltas.full),
    Kind("full", ((("set_weight",),),), deltas.replacement),
    Kind("norm", ((("w_norm",),),), deltas.full),
    Kind("norm", ((("b_norm",),),), deltas.full, parameter="bias"),
    Kind("full", ((("diff_b",),),), deltas.full, parameter="bias"),
    Kind("LoRA", ((("up_bias",), ), _LORA), deltas.bias_of_lora, may=("alpha",), rank=lambda t: t["down"].shape[0],
         parameter="bias"),
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Change:
    """One module of an adapter: what it adds to one parameter.

    Attributes:
        tensors: by role, as they lie in the file.
        scale: what the formula is multiplied by: alpha / rank; of OFT the constraint.
    """

    kind: Kind
    tensors: Tensors
    scale: float

    @property
    def name(self) -> str:
        """The kind as people call it, DoRA named."""
        return f"{self.kind.name} (DoRA)" if any(role in self.tensors for role in _DORA) else self.kind.name

    def of(self, weight: Tensor, strength: float = 1.0) -> Tensor:
        """What is to be added to a weight, float32, in its shape and on its device.

        Args:
            weight: the checkpoint's own, float32; it is not changed.
            strength: the user's multiplier.
        Raises:
            ValueError, RuntimeError: if the tensors are of another shape of layer; asked for on ``meta`` that costs
                nothing.
        """
        t = self._tensors_on(weight.device)
        magnitude, axis = _magnitude(t)
        if magnitude is None:
            return self.kind.delta(weight, t, self.scale, strength)
        return deltas.dora(weight, self.kind.delta(weight, t, self.scale, 1.0), magnitude, strength, axis)

    def on(self, device: torch.device) -> Change:
        """The same with its tensors there, in float32."""
        return replace(self, tensors=self._tensors_on(device))

    def _tensors_on(self, device: torch.device) -> dict[str, Tensor]:
        return {
            role: tensor if role == "on_input" else tensor.to(device, torch.float32)
            for role, tensor in self.tensors.items()
            if role != "alpha"  # which is in the scale
        }


def scale_of(kind: Kind, tensors: Tensors, told: Callable[[int], float | None]) -> float:
    """The scale of one module from its own alpha and its own rank (FORMATS.md, section 1, row 14).

    Args:
        told: the scale that the file's metadata tells for a rank, for a module without alpha; without either it is 1.
    """
    alpha = tensors["alpha"].item() if "alpha" in tensors else None
    if kind.rank is None:  # alpha is the constraint of OFT, where it is anything
        return alpha or 0.0
    rank = kind.rank(tensors)
    if rank is None:
        return 1.0
    if alpha is None:
        scale = told(rank)
        return 1.0 if scale is None else scale
    return alpha / rank if alpha else 1.0  # trainers write alpha = 0 for "as the rank"


def _magnitude(t: Mapping[str, Tensor]) -> tuple[Tensor | None, int]:
    """The lengths of a DoRA module, and whether they are of rows (0) or columns (1).

    PEFT's are always of rows; LyCORIS's stand on the axis whose size is not 1.
    """
    if "magnitude" in t:
        return t["magnitude"], 0
    scale = t.get("dora_scale")
    if scale is None:
        return None, 0
    is_columns = scale.ndim > 1 and scale.shape[0] == 1 and scale.shape[1] != 1
    return scale, 1 if is_columns else 0
